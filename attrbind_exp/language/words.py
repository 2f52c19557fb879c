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
    nearest rear right rightmost row side top topmost upper uppermost
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

# What may stand in an opener: words for a picture, and words that tell somebody to find something.
PICTURES = "photo|photograph|picture|pic|image|shot|scene|close ?up|view"
IMPERATIVES = (
    "find(?: me)?|show(?: me)?|give me|get(?: me)?|pick(?: out)?|select|choose|locate|segment|identify|highlight|mark|"
    "point (?:at|to)|look (?:at|for)|click(?: on)?|i am looking for|i'm looking for"
)

# Words that a thing is introduced by ("it is the ..", "find two ..").
DETERMINERS = _set("""
    a all an another any both every her his my one our several some someone somebody that the these this those three two
""")

# Signs and what they are read as; "" is left out.
SIGNS = {
    **dict.fromkeys("()[]{}<>;:|/\\~*…", ","),
    **dict.fromkeys('"“”„`#%', ""),
    "...": ",",
    "’s": "'s",
    "`s": "'s",
    "&": "and",
    "+": "and",
    "w/": "with",
    "w/o": "without",
    "wo/": "without",
}

# Names of several words that mean one thing, all of COCO's categories among them.
NAMES = (
    "baseball bat",
    "baseball glove",
    "cell phone",
    "dining table",
    "fire hydrant",
    "hair drier",
    "hair dryer",
    "hot dog",
    "parking meter",
    "potted plant",
    "remote control",
    "sports ball",
    "stop sign",
    "teddy bear",
    "tennis racket",
    "traffic light",
    "wine glass",
)

# Words before which no "the" can stand at the start of an expression.
OPENING_WORDS = _set("""
    a above across against all along among an and another any around at behind below beneath beside besides between both
    by down each either every everybody everyone everything from he her here hers him his i in inside it its me my near
    next no nobody of off on one onto opposite our out outside over she some somebody someone something that the their
    them there these they this those to toward towards under underneath up us we what which who whose with without you
    your
""")

# Words for people. Such a word stays the target before the name of a thing ("guy red shirt", "man glasses").
PEOPLE = _set("""
    batter boy boys catcher child children dude dudes fellow gal gentleman girl girls guy guys kid kids ladies lady man
    men people person pitcher player players referee skateboarder skater skier snowboarder surfer umpire woman women
""")

# Words that are never the target: the viewer, words that start a clause, articles.
NO_STAND_INS = _set("""
    a an anything her his i itself me mine my myself that the there these this those us we what which who whom whose you
    your
""")
