"""Put CoreNLP in place, or say why it is not: `python -m pipeline.scene_graph --fetch`."""

from pipeline.command import command
from pipeline.scene_graph.parsers import corenlp

main = command(corenlp.main)

if __name__ == "__main__":
    main()
