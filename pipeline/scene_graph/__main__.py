"""Put CoreNLP in place, or say why it is not: `python -m pipeline.scene_graph --fetch`."""

from pipeline.scene_graph.parsers.corenlp import main

if __name__ == "__main__":
    main()
