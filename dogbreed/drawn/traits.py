"""The appearance of the 133 breeds as data: build, ears, tail, coat, colours and markings, after the breed standards.

`dogbreed.drawn.dog` draws from this table, so a breed is changed or added only here.
"""

from dataclasses import dataclass
from types import MappingProxyType

from dogbreed.breeds import BREEDS

Colour = tuple[int, int, int]

COLOURS: MappingProxyType[str, Colour] = MappingProxyType(
    {
        "black": (44, 42, 46),
        "charcoal": (80, 77, 76),
        "slate": (94, 103, 118),
        "blue": (126, 136, 150),
        "grey": (146, 146, 148),
        "ash": (186, 191, 198),
        "silver": (206, 206, 204),
        "wolf": (142, 132, 120),
        "white": (244, 241, 234),
        "cream": (240, 224, 194),
        "lemon": (236, 200, 122),
        "wheaten": (226, 194, 146),
        "sand": (212, 176, 128),
        "yellow": (230, 194, 132),
        "gold": (214, 154, 80),
        "fawn": (208, 162, 108),
        "apricot": (230, 168, 112),
        "orange": (220, 132, 60),
        "tan": (190, 124, 64),
        "rust": (172, 88, 42),
        "red": (184, 94, 46),
        "mahogany": (128, 56, 34),
        "liver": (104, 62, 42),
        "chocolate": (84, 52, 38),
        "deadgrass": (158, 120, 74),
        "grizzle": (158, 130, 94),
        "isabella": (170, 148, 138),
        "pink": (216, 168, 152),
    }
)

EARS = ("prick", "bat", "semi", "button", "rose", "drop", "long", "butterfly")
TAILS = ("docked", "stub", "whip", "otter", "sickle", "curl", "plume", "flag", "brush", "pompom")
COATS = ("smooth", "dense", "silky", "shaggy", "wire", "curly", "corded", "hairless")
MARKS = (
    # on the body
    "saddle", "blanket", "chest", "collar", "under", "socks", "feet", "tip", "points", "patches", "spots", "ticks",
    "roan", "brindle", "merle", "sable",
    # on the head
    "mask", "muzzle", "blaze", "head", "face", "ears", "eyepatch", "furnishings",
)  # fmt: skip
FEATURES = (
    "beard", "brows", "topknot", "ruff", "fringe", "wrinkles", "jowls", "clip", "lion", "crest", "arch", "slope",
    "egg", "spectacles", "drape",
)  # fmt: skip
BUILD = ("legs", "long", "deep", "tuck", "bulk", "neck", "head", "snout", "muzzle")


@dataclass(frozen=True)
class Traits:
    """The appearance of one breed. The numbers of `build`, `ear_size` and `hair` range from 0 (least) to 9 (most)."""

    build: tuple[int, ...]  # in the order of BUILD: length of leg, of body, depth of chest, tuck-up of the belly, ...
    ears: str
    ear_size: int
    tail: str
    coat: str
    hair: int  # length
    colour: str
    marks: tuple[tuple[str, str], ...]  # (where, colour), painted in this order
    features: frozenset[str]

    def measure(self, name: str) -> float:
        """Return one number of the build, scaled to 0..1."""
        return self.build[BUILD.index(name)] / 9

    def mark(self, where: str) -> str | None:
        """Return the colour of a marking, or None."""
        return dict(self.marks).get(where)


def difference(one: Traits, other: Traits) -> float:
    """Return how different two breeds look, in units of about one obvious trait (such as another kind of tail).

    This is no model of perception; it checks that no two breeds in the table are alike.
    """
    build = sum(abs(a - b) for a, b in zip(one.build, other.build, strict=True)) / 9
    kinds = (one.ears != other.ears) + (one.tail != other.tail) + (one.coat != other.coat)
    sizes = (abs(one.ear_size - other.ear_size) + abs(one.hair - other.hair)) / 9
    colours = max(abs(a - b) for a, b in zip(COLOURS[one.colour], COLOURS[other.colour], strict=True)) / 64
    marks = 0.5 * len(set(one.marks) ^ set(other.marks)) + 0.5 * len(one.features ^ other.features)
    return build + kinds + sizes + min(2.0, colours) + marks


def _read(row: str) -> tuple[str, Traits]:
    """Parse one row of the table; reject words that `dogbreed.drawn.dog` cannot draw."""
    name, build, ears, tail, coat, colour, *words = row.split()
    marks = [word.split(":") for word in words if ":" in word]
    traits = Traits(
        build=tuple(map(int, build)),
        ears=ears[:-1],
        ear_size=int(ears[-1]),
        tail=tail,
        coat=coat[:-1],
        hair=int(coat[-1]),
        colour=colour,
        marks=tuple((where, colour) for where, colour in marks),
        features=frozenset(word for word in words if ":" not in word),
    )
    assert len(traits.build) == len(BUILD), row
    assert (traits.ears in EARS, traits.tail in TAILS, traits.coat in COATS, colour in COLOURS) == (True,) * 4, row
    assert all(where in MARKS and colour in COLOURS for where, colour in traits.marks), row
    assert traits.features <= set(FEATURES), row
    return name, traits


# build: legs, long, deep, tuck, bulk, neck, head, snout, muzzle. Then ears and their size, tail, coat and its length,
# colour, markings as where:colour, features.
_TABLE = """
Affenpinscher                      413132706 button3    sickle wire6     black    beard brows
Afghan_hound                       834528373 long6      sickle silky9    gold     mask:black drape
Airedale_terrier                   724235465 button4    sickle wire3     tan      saddle:black beard brows
Akita                              635164636 prick3     curl   dense4    red      under:white muzzle:white socks:white
Alaskan_malamute                   635164545 prick3     curl   dense6    charcoal under:white face:white socks:white
American_eskimo_dog                434034544 prick3     curl   dense7    white    ruff
American_foxhound                  734335455 drop6      sickle smooth1   white    blanket:black head:tan tip:white
American_staffordshire_terrier     435274637 rose3      whip   smooth0   blue     chest:white feet:white
American_water_spaniel             444144444 long5      plume  curly5    chocolate
Anatolian_shepherd_dog             745265546 drop4      sickle dense2    sand     mask:black ears:black
Australian_cattle_dog              444154445 prick4     brush  dense2    blue     points:tan roan:white eyepatch:black
Australian_shepherd                544144444 semi4      docked dense6    blue     merle:black points:tan chest:white blaze:white socks:white
Australian_terrier                 253134544 prick4     stub   shaggy4   slate    points:tan topknot
Basenji                            714426434 prick5     curl   smooth0   red      chest:white blaze:white socks:white tip:white wrinkles
Basset_hound                       085063667 long9      sickle smooth1   white    saddle:black head:tan tip:white wrinkles jowls
Beagle                             434244545 drop6      sickle smooth1   white    saddle:black head:tan blaze:white tip:white
Bearded_collie                     554033545 drop4      plume  shaggy8   grey     collar:white chest:white face:white socks:white beard fringe
Beauceron                          745255465 prick4     brush  smooth2   black    points:rust
Bedlington_terrier                 623625463 drop5      whip   curly4    ash      topknot arch
Belgian_malinois                   734335464 prick5     brush  dense2    fawn     sable:black mask:black ears:black
Belgian_sheepdog                   734235464 prick5     brush  dense7    black    ruff
Belgian_tervuren                   734235464 prick5     brush  dense7    red      sable:black mask:black ears:black ruff
Bernese_mountain_dog               645164546 drop4      brush  silky6    black    points:rust chest:white blaze:white feet:white tip:white
Bichon_frise                       323034625 drop4      curl   curly7    white    topknot
Black_and_tan_coonhound            734345466 long8      sickle smooth0   black    points:tan
Black_russian_terrier              636075557 drop3      docked shaggy7   black    beard brows fringe
Bloodhound                         646165678 long9      sickle smooth0   rust     wrinkles jowls
Bluetick_coonhound                 734345466 long8      sickle smooth1   white    roan:slate saddle:black head:black points:tan
Border_collie                      544234454 semi4      plume  silky5    black    collar:white chest:white blaze:white socks:white tip:white
Border_terrier                     433134525 button3    stub   wire3     grizzle  mask:charcoal beard
Borzoi                             935627392 rose3      plume  silky6    white    patches:fawn arch
Boston_terrier                     514244606 bat4       stub   smooth0   black    chest:white blaze:white muzzle:white feet:white
Bouvier_des_flandres               536074647 prick3     docked shaggy5   charcoal beard brows
Boxer                              625455518 drop3      stub   smooth0   fawn     mask:black chest:white blaze:white socks:white jowls
Boykin_spaniel                     434144444 long5      docked silky4    chocolate
Briard                             744145555 drop4      plume  shaggy8   wheaten  ears:charcoal beard fringe
Brittany                           624334444 drop4      stub   silky2    white    patches:orange head:orange blaze:white
Brussels_griffon                   413133707 button3    stub   wire5     rust     mask:black beard
Bull_terrier                       425274667 prick3     whip   smooth0   white    eyepatch:black egg
Bulldog                            136192909 rose2      stub   smooth0   fawn     chest:white blaze:white muzzle:white socks:white wrinkles jowls
Bullmastiff                        536184819 drop3      otter  smooth0   tan      mask:black wrinkles
Cairn_terrier                      233043635 prick3     sickle shaggy4   grizzle  mask:charcoal ears:charcoal brows
Canaan_dog                         624335444 prick4     curl   dense2    white    patches:sand head:sand muzzle:white
Cane_corso                         636275729 prick3     docked smooth0   charcoal jowls
Cardigan_welsh_corgi               174053544 bat6       brush  dense3    blue     merle:black collar:white chest:white blaze:white socks:white
Cavalier_king_charles_spaniel      333034624 long6      plume  silky5    white    patches:rust head:rust blaze:white
Chesapeake_bay_retriever           545254445 drop3      otter  curly2    deadgrass
Chihuahua                          422213813 bat7       sickle smooth0   fawn     under:cream
Chinese_crested                    532315543 prick6     plume  hairless6 pink     furnishings:white crest
Chinese_shar-pei                   425164739 button1    curl   smooth1   sand     mask:charcoal wrinkles jowls
Chow_chow                          426073718 prick2     curl   dense9    red      ruff
Clumber_spaniel                    166084747 long6      docked silky5    white    ears:lemon eyepatch:lemon ticks:lemon jowls
Cocker_spaniel                     324145636 long7      docked silky7    yellow   topknot
Collie                             544235373 semi3      brush  dense8    gold     sable:black collar:white chest:white blaze:white socks:white ruff
Curly-coated_retriever             735245464 drop4      otter  curly3    black
Dachshund                          093134463 long5      whip   smooth0   rust
Dalmatian                          634345444 drop4      whip   smooth0   white    spots:black
Dandie_dinmont_terrier             073133745 drop6      sickle shaggy4   blue     furnishings:white topknot arch
Doberman_pinscher                  724537364 prick6     stub   smooth0   black    points:rust
Dogue_de_bordeaux                  546194919 drop2      whip   smooth0   red      chest:white wrinkles jowls
English_cocker_spaniel             424145555 long7      docked silky5    white    roan:slate head:slate ears:black
English_setter                     644235465 long5      flag   silky6    white    ticks:charcoal ears:charcoal
English_springer_spaniel           534144455 long6      docked silky4    white    blanket:liver head:liver blaze:white ticks:liver
English_toy_spaniel                323033806 long7      docked silky6    black    points:rust
Entlebucher_mountain_dog           345154536 drop3      docked smooth1   black    points:rust chest:white blaze:white feet:white
Field_spaniel                      354044465 long6      docked silky4    liver    points:tan
Finnish_spitz                      514234443 prick4     curl   dense5    orange   under:cream
Flat-coated_retriever              644245364 drop4      flag   silky5    black
French_bulldog                     325172808 bat6       stub   smooth0   charcoal brindle:grizzle chest:white
German_pinscher                    614345444 button4    stub   smooth0   mahogany
German_shepherd_dog                654345465 prick5     brush  dense4    tan      saddle:black mask:black slope
German_shorthaired_pointer         724445455 drop5      docked smooth0   white    patches:liver ticks:liver head:liver
German_wirehaired_pointer          724445455 drop4      docked wire4     white    roan:liver saddle:liver head:liver beard brows
Giant_schnauzer                    725255466 prick4     docked wire4     black    beard brows
Glen_of_imaal_terrier              164063646 rose4      stub   shaggy5   wheaten  brows
Golden_retriever                   645144455 drop4      flag   silky5    gold
Gordon_setter                      645245465 long5      flag   silky6    black    points:rust
Great_dane                         925457467 prick4     whip   smooth0   white    merle:black
Great_pyrenees                     646164545 drop3      brush  dense8    white    ears:sand ruff
Greater_swiss_mountain_dog         746265546 drop4      otter  smooth1   black    points:rust chest:white blaze:white feet:white tip:white
Greyhound                          935828282 rose2      whip   smooth0   fawn     brindle:black chest:white
Havanese                           343034534 long5      curl   silky8    white    patches:black head:black blaze:white muzzle:white
Ibizan_hound                       924718382 bat9       sickle smooth0   white    patches:red head:red blaze:white
Icelandic_sheepdog                 434144444 prick4     curl   dense5    tan      collar:white chest:white blaze:white socks:white
Irish_red_and_white_setter         634245465 long5      flag   silky5    white    patches:red head:red blaze:white
Irish_setter                       734336374 long5      flag   silky6    mahogany
Irish_terrier                      624335464 button3    sickle wire2     red      beard
Irish_water_spaniel                724245464 long6      whip   curly6    liver    topknot
Irish_wolfhound                    935546374 rose3      whip   shaggy4   grey     beard brows
Italian_greyhound                  823808371 rose3      whip   smooth0   isabella chest:white
Japanese_chin                      413034705 long5      plume  silky6    white    patches:black head:black blaze:white muzzle:white
Keeshond                           415044534 prick3     curl   dense9    grey     sable:black under:cream ears:black mask:charcoal ruff spectacles
Kerry_blue_terrier                 624245465 button4    stub   curly4    slate    beard fringe
Komondor                           636064656 drop5      plume  corded9   cream    fringe
Kuvasz                             745255464 drop3      brush  dense5    cream
Labrador_retriever                 535154545 drop4      otter  smooth1   yellow
Lakeland_terrier                   613235555 button3    stub   wire3     wheaten  saddle:slate beard brows
Leonberger                         646164556 drop4      brush  dense7    gold     sable:black mask:black ruff
Lhasa_apso                         243033524 long5      curl   silky9    sand     ears:liver beard fringe
Lowchen                            423034524 long5      pompom silky7    cream    lion
Maltese                            232023523 long5      curl   silky9    white    drape
Manchester_terrier                 624426363 semi4      whip   smooth0   black    points:tan
Mastiff                            648094929 drop3      whip   smooth0   apricot  mask:black ears:black jowls
Miniature_schnauzer                514145546 button3    stub   wire4     grey     furnishings:silver socks:silver beard brows
Neapolitan_mastiff                 547093919 drop2      docked smooth0   slate    wrinkles jowls
Newfoundland                       647084736 drop4      brush  silky7    black    jowls
Norfolk_terrier                    133043624 button3    stub   wire4     tan      brows
Norwegian_buhund                   524234444 prick4     curl   dense3    wheaten  mask:grizzle
Norwegian_elkhound                 525154545 prick4     curl   dense5    grey     sable:charcoal under:silver ears:black mask:black
Norwegian_lundehund                433224443 prick5     sickle dense3    tan      sable:black chest:white socks:white collar:white
Norwich_terrier                    133043624 prick3     stub   wire4     red      ruff
Nova_scotia_duck_tolling_retriever 534244444 drop4      plume  silky4    orange   chest:white blaze:white feet:white tip:white
Old_english_sheepdog               527063737 drop4      docked shaggy9   grey     head:white collar:white chest:white socks:white fringe
Otterhound                         645154566 long8      sickle shaggy5   grizzle  saddle:black beard brows
Papillon                           422114522 butterfly9 plume  silky5    white    patches:rust head:rust blaze:white
Parson_russell_terrier             513234444 button3    stub   wire1     white    head:tan blaze:white muzzle:white
Pekingese                          044051907 long6      plume  silky9    fawn     mask:black ears:charcoal ruff
Pembroke_welsh_corgi               164053544 prick6     docked dense3    orange   collar:white chest:white blaze:white socks:white under:white
Petit_basset_griffon_vendeen       154044545 long6      sickle shaggy5   white    patches:gold head:gold beard brows
Pharaoh_hound                      824627372 bat8       whip   smooth0   rust     chest:white feet:white tip:white
Plott                              734345455 drop5      sickle smooth0   liver    brindle:black
Pointer                            724446455 drop4      whip   smooth0   white    patches:lemon head:lemon blaze:white
Pomeranian                         303022612 prick2     curl   dense9    orange   ruff under:cream
Poodle                             814227362 long6      pompom curly6    apricot  topknot clip
Portuguese_water_dog               534154545 drop5      pompom curly6    black    chest:white topknot lion
Saint_bernard                      647084838 drop4      brush  silky5    white    blanket:rust head:rust mask:charcoal blaze:white jowls
Silky_terrier                      242124443 prick4     stub   silky6    blue     head:tan socks:tan drape
Smooth_fox_terrier                 514235463 button3    stub   smooth0   white    patches:black head:black muzzle:tan
Tibetan_mastiff                    646084747 drop4      curl   dense8    black    points:rust ruff jowls
Welsh_springer_spaniel             544144454 long4      plume  silky4    white    blanket:red head:red blaze:white
Wirehaired_pointing_griffon        534244546 drop5      docked wire6     grey     patches:liver head:liver roan:liver beard brows
Xoloitzcuintli                     724426463 bat8       whip   hairless0 slate
Yorkshire_terrier                  222013522 prick4     stub   silky9    slate    head:gold socks:gold chest:gold topknot drape
"""  # noqa: E501

_BY_NAME = dict(_read(row) for row in _TABLE.strip().splitlines())
assert list(_BY_NAME) == [folder.partition(".")[2] for folder in BREEDS]

TRAITS: MappingProxyType[str, Traits] = MappingProxyType(
    {folder: _BY_NAME[folder.partition(".")[2]] for folder in BREEDS}
)
