"""Closed word lists that the rules share: written by hand, none counted from a data set."""


def listed(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
THING_TAGS = NOUN_TAGS | {"PRP", "WP", "WDT", "DT", "EX", "CD"}
RELATIVE_TAGS = frozenset({"WP", "WDT", "WP$"})
AUXILIARY = frozenset({"aux", "aux:pass", "cop"})
SHARE_SUBJECT = frozenset({"xcomp", "advcl", "conj", "ccomp", "dep", "parataxis"})
COMPOUND = frozenset({"compound", "flat"})
APART = frozenset({"or", "nor", "not", "but"})
PEOPLE_PRONOUNS = listed(
    "someone somebody anyone anybody everyone everybody something nothing nobody another one others"
)

# "on the side of a road" is one preposition
RELATIONAL = listed(
    """front middle top side back center centre bottom edge corner end left right rear inside outside base foot face
    background foreground midst direction distance vicinity head"""
)
# "a group of people" is people
GROUPS = listed(
    """group crowd bunch pair piece glass couple lot lots number bit set series variety kind type sort row stack pile
    team bowl cup plate slice slices collection herd flock line gang handful part dozen dozens patch cluster bits pieces
    pairs groups stacks piles rows sheet bouquet assortment array"""
)
COUNTING = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {word: str(number) for number, word in enumerate(COUNTING)}
COLOURS = listed(
    """white black blue green red brown yellow gray grey orange silver pink tan purple beige gold maroon teal turquoise
    violet blond blonde golden cream navy crimson magenta cyan"""
)
SIZES = listed(
    """large small big little tall short long huge tiny giant thick thin wide narrow massive enormous high low deep
    larger smaller taller shorter longer bigger"""
)
AGES = listed("young old older younger elderly new adult baby teenage middle-aged aged")
MATERIALS = listed(
    """wooden wood metal brick glass stone plastic leather concrete cement steel iron paper rubber marble cotton denim
    ceramic wicker cardboard wool silk tin aluminum brass bronze copper clay straw bamboo"""
)
SHAPES = listed("round square rectangular triangular circular oval curved flat pointed arched straight")
CLOTHES = listed(
    """shirt shirts pants shorts jeans hat hats cap caps helmet helmets jacket jackets coat coats dress dresses suit suits
    tie ties shoes shoe boots boot glasses sunglasses goggles gloves glove scarf skirt uniform uniforms vest sweater hoodie
    t-shirt tshirt top bikini swimsuit socks sock sandals apron robe gown costume costumes clothes clothing outfit outfits
    wetsuit wetsuits bra belt watch bracelet necklace ring earrings earring backpack headband bandana mask overalls
    sneakers leggings blouse tuxedo trunks sweatshirt jersey visor blazer attire hood"""
)
