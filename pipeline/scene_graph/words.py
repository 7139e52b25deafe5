"""Closed word lists that the rules share: written by hand, none counted from a data set."""


def listed(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
THING_TAGS = NOUN_TAGS | {"PRP", "WP", "WDT", "DT", "EX", "CD"}
RELATIVE_TAGS = frozenset({"WP", "WDT", "WP$"})
AUXILIARY = frozenset({"aux", "aux:pass", "cop"})
COMPOUND = frozenset({"compound", "flat"})
SHARE_SUBJECT = frozenset({"xcomp", "advcl", "conj", "ccomp", "dep", "parataxis"})
APART = frozenset({"or", "nor", "not", "but"})
# "on the side of a road" is one preposition
RELATIONAL = listed(
    """front middle top side sides back center centre bottom edge edges corner end left right rear inside outside base
    foot midst direction far vicinity underside opposite"""
)
# adverbs that with their preposition make one: "next to", "close to", "up to", "out of"
ADVERBS = listed("next close adjacent up down out away back off over near far through along outside inside around")
# what makes a fact no fact
NOT = listed("not n't nt never no neither hardly nor")
NOBODY = listed("nobody nothing none")
REFUSE = listed("refuse fail forget decline")

# what tells of a deed that it does not do
SUBJECTLESS = listed(
    """video clip movie film tutorial demonstration lesson cartoon animation commercial advertisement ad show footage scene
    recipe"""
)

# prepositions that parsers take for adverbs
PLACES = listed(
    "above down up over under through across along around behind beneath below near inside past off in on by"
)
# what captions tell of, where a tagger may see a plural noun: "the red moon changes", "the ball flashes"
DEEDS = listed(
    """move go slide grow get shrink appear show vanish disappear flash blink bounce hop follow swap change stay roll jump
    walk run turn drift rise fall spin flicker twinkle swell dwindle pop leap chase fade emerge head travel leave reach
    become come rest ride eat sing dance talk speak cook drive catch throw kick hit swim climb crawl swing sit stand
    fly pass cross pull push carry hold open close pour cut slice mix stir wash brush feed pet kiss hug smile laugh cry
    shake wave clap enter exit approach remain rotate float glide collide trade exchange begin start stop lie land
    take put make get grab pick add knock wipe give bark look score play wear graze splash practice discuss argue shout
    smile crash dive paint draw eat chat gather perform bounce fold roll wrap lift drop shoot celebrate chew type
    measure photograph return sew speed fry race film drink sweep blow teach read write ask answer"""
)
# deeds where another came before, or a phrase stands between: "bow ties" alone are things
LATER = DEEDS | listed(
    """bow tie nod clap hug lick bite sniff scratch wink kneel crouch lean salute whisper yell scream whistle yawn sneeze
    hum skip march stumble paddle plant juggle carve lead lower raise remove place grin blush cheer applaud toss dip
    peel grate fill empty spray rub pat tap press twist bend stretch squat punch tackle dunk dribble pose"""
)
# words that begin a clause
CLAUSE = listed("while as when because if after before where whilst until since then")
# "a group of people" is people
GROUPS = listed(
    """group crowd bunch pair couple lot lots number bit set series variety kind type sort row stack pile herd flock
    line gang handful dozen dozens cluster bits pairs groups stacks piles rows bouquet assortment array sets bunches
    herds flocks crowds piece pieces slice slices part parts patch patches portion chunk chunks sheet section team
    troop swarm school collection mound heap stretch body loaf
    loaves tuft clump display"""
)
SEEING = listed("show see watch film hear find feature depict record catch observe notice")
GIVING = listed("give hand show feed hand teach tell read offer throw send bring serve pass buy lend write ask")
# "cleaning a window with a cloth": the tool is the verb's
TOOLED = listed(
    """cut slice chop clean wash wipe hit catch paint brush build fill write cover draw scrub open sew tie mix stir
    decorate spray polish sweep scoop peel mow shave poke beat shoot dig wrap touch spread dry whisk strike knock
    attack measure fix repair apply iron coat mash smash push pull lift break"""
)
COLLECTIVE = listed("couple crowd group family team band bunch pair police class audience staff")
LIGHT = listed("try use attempt begin start seem appear continue want go get prepare")  # "trying to catch": catch
STATIC = listed("walk stand sit run ride drive go pass fly stop park lie lay come wait jump move sail kneel")
COUNTING = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {word: str(number) for number, word in enumerate(COUNTING)}
COLOURS = listed(
    """white black blue green red brown yellow gray grey orange silver pink tan purple beige gold maroon teal turquoise
    violet blond blonde golden cream navy crimson magenta cyan lavender khaki ivory burgundy aqua lime"""
)
SHADES = listed("dark light bright pale deep")
SIZES = listed(
    """large small big little tall short long huge tiny giant thick thin wide narrow massive enormous high low deep
    larger smaller taller shorter longer bigger fat skinny slim chubby"""
)
WHEREABOUTS = listed("outside inside outdoors indoors upstairs downstairs together alone")
AGES = listed("young old older younger elderly new adult baby teenage middle-aged aged newborn juvenile")
MATERIALS = listed(
    """wooden wood metal brick glass stone plastic leather concrete cement steel iron paper rubber marble cotton denim
    ceramic wicker cardboard wool silk tin aluminum brass bronze copper clay straw bamboo tile granite porcelain velvet
    fur foam nylon canvas chrome foil mesh wire fabric cloth vinyl styrofoam gravel asphalt cobblestone hardwood
    mahogany oak pine fleece lace satin suede knit felt linen"""
)
SHAPES = listed("round square rectangular triangular circular oval curved flat pointed arched straight circle")
PATTERNS = listed("plaid striped checkered floral camouflage camo polka stripe print tuxedo tiger zebra leopard toy")
CLOTHES = listed(
    """shirt shirts pants shorts jeans hat hats cap caps helmet helmets jacket jackets coat coats dress dresses suit suits
    tie ties shoes shoe boots boot glasses sunglasses goggles gloves glove scarf skirt uniform uniforms vest vests sweater
    sweaters hoodie t-shirt t-shirts tshirt bikini swimsuit socks sock sandals apron robe gown costume costumes clothes
    clothing outfit outfits wetsuit wetsuits bra belt bracelet necklace earrings backpack headband bandana overalls
    sneakers leggings blouse tuxedo trunks sweatshirt jersey blazer attire gear sweatpants slacks cardigan mittens
    wristband tights turban veil cape kimono flip-flops slippers pajamas khakis raincoat poncho beanie"""
)
PEOPLE = listed(
    """man men woman women boy boys girl girls person persons people child children kid kids baby babies lady ladies guy
    guys player players toddler toddlers adult adults rider riders skier skiers surfer surfers snowboarder snowboarders
    skateboarder skateboarders batter catcher pitcher umpire officer police worker workers chef cook couple crowd
    group team spectator spectators passenger passengers pedestrian pedestrians bride groom soldier soldiers singer
    dancer dancers performer musician band teacher student students father mother son daughter brother sister friend
    friends someone somebody everyone human humans male female gentleman cyclist biker motorcyclist athlete athletes
    driver fan fans customer cowboy clown teen teenager teenagers he she they i we him"""
)
# of which no two make a compound
KIN = listed("man men woman women boy boys girl girls child children kid kids lady guy father mother husband wife")
TABLEWARE = listed("bowl plate cup glass spoon fork knife pan pot dish tray bottle jar napkin")
DOERS = listed(
    """pianist drummer guitarist violinist surfer painter artist chef gardener farmer barber sailor pilot clown magician
    nurse doctor reporter actor actress model judge waiter waitress farmer fisherman runner swimmer host mechanic"""
)
ANIMALS = listed(
    """dog dogs cat cats horse horses elephant elephants giraffe giraffes zebra zebras cow cows sheep bear bears bird
    birds duck ducks monkey monkeys goat goats puppy kitten animal animals lion tiger fish cattle pig pigs rabbit
    squirrel seagull seagulls goose geese swan pigeon pigeons lamb calf pony deer fox wolf owl parrot chicken turkey
    panda bull camel kangaroo dolphin whale shark turtle frog snake mouse rat hamster gorilla ape chimpanzee leopard"""
)
ANIMATE = PEOPLE | ANIMALS
VEHICLES = listed(
    """car cars bus buses train trains truck trucks plane planes airplane airplanes bike bikes bicycle bicycles
    motorcycle motorcycles boat boats jet van taxi ship tractor helicopter scooter aircraft engine"""
)
FURNISHINGS = listed(
    """laptop computer clock tree trees house building bed chair table desk sink toilet knife suitcase phone tv
    television refrigerator stove oven bench umbrella skateboard door plant flower shirt"""
)
# parts that a whole has: "bus door", "door of the bus"
PARTS = listed(
    """head eye eyes ear ears nose mouth face neck leg legs foot feet arm arms hand hands tail hair fur back body trunk
    tusk tusks mane wing wings beak horn horns paw paws finger fingers shoulder knee skin stomach chest wheel wheels
    tire tires window windows door doors windshield seat seats handle handles roof screen keyboard blade branch branches
    leaf leaves bark stem root roots engine headlight headlights light lights mirror bumper lid knob face cover frame
    cushion sleeve sleeves collar pocket drawer drawers nose tongue teeth beard"""
)
# verbs whose object does what follows: "asks him to dance"
CONTROL = listed(
    """want ask tell teach help make let get allow force train encourage cause order urge invite enable need like push
    lead instruct command direct coach beg warn challenge convince persuade expect require permit remind dare hire send
    watch see show hear feel have drive motivate inspire guide assist advise"""
)
# names of two words whose first is tagged an adjective
JOINED = listed(
    """teddy hot polar remote mobile cellular cell dining living parking cutting steering fire french ice
    cooking frying sewing dressing washing swimming shopping fishing sleeping boxing rocking climbing baking mixing
    measuring training"""
)
HOT = listed("dog dogs tub tubs sauce air pot rod rods wheels chocolate cocoa")  # what "hot" makes another thing of


def joined(first: str, second: str) -> bool:
    """Whether two words are one name: "hot dog", but "hot water" is water that is hot."""
    return first in JOINED and (first != "hot" or second in HOT)


# said of a thing, but no quality of it
UNSEEN = listed(
    """several many few various other another right left top bottom front back multiple some different next close same
    one such own single certain whole entire more most main only near single first both all"""
)
