"""Short lists of words that often occur in referring expressions, all in lower case. The parser's rules use them."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


COLOURS = _set("""
    beige black blond blonde blue brown brunette dark gold golden gray green grey magenta maroon navy orange pink purple
    red silver tan teal turquoise violet white yellow
""")

LOCATIONS = _set("""
    away back background bottom bottommost center central centre close closer closest corner distance distant edge far
    farther farthest foreground front further furthest highest left leftmost lower lowermost lowest middle near nearer
    nearest rear right rightmost side top topmost upper uppermost
""")

# The picture and its viewer. "The bottom of the picture" and "closest to us" name a place, not another thing.
FRAME = _set("camera image me photo photograph pic picture us viewer you")

# Things whose name ends in "-ing". Any other word in "-ing" after a noun is a participle that spaCy takes for a noun
# ("zebra walking").
THINGS_IN_ING = _set("""
    awning bedding bling building bunting ceiling clothing covering crossing decking drawing dressing dumpling earring
    fencing filling flooring frosting icing king landing lettering lighting lining marking molding opening padding
    painting pudding railing ring roofing sapling scaffolding seasoning seating serving shelving sibling siding sling
    spring string stuffing swing thing topping trimming wing wiring writing
""")
