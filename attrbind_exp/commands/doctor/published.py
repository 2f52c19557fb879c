"""What the makers of the data sets say is in them, and where the files can still be had."""

from collections.abc import Mapping
from typing import NamedTuple


class Counts(NamedTuple):
    """Of one split: objects (refs), expressions (sentences) and images; None = no published figure."""

    objects: int
    expressions: int | None
    images: int


Table = Mapping[tuple[str, str], Mapping[str, Counts]]

# Objects and images: the table of TensorFlow Datasets' ref_coco. Its unc and umd rows add up to the totals of Yu et al.
# 2016 (RefCOCO 50,000 objects in 19,994 images, RefCOCO+ 49,856 in 19,992) and to RefCOCOg's 25,799 images; both of
# RefCOCOg's partitions to 49,822 objects. In the google partitions images are shared between splits.
# Expressions: val and test splits add up to the counts in Ref-L4's review (RefCOCO 21,586, RefCOCO+ 21,373, RefCOCOg
# 14,498); with train, RefCOCO+ to the 141,564 of Yu et al. and both of RefCOCOg's partitions to 95,010 (google: 85,474
# for training in Mao et al. 2016). RefCOCO's add up to 142,210, one more than the 142,209 of Yu et al. No second source
# was found for the expressions of RefCOCO's google partition.
REFS: Table = {
    ("refcoco", "unc"): {
        "train": Counts(42_404, 120_624, 16_994),
        "val": Counts(3_811, 10_834, 1_500),
        "testA": Counts(1_975, 5_657, 750),
        "testB": Counts(1_810, 5_095, 750),
    },
    ("refcoco", "google"): {
        "train": Counts(40_000, None, 19_213),
        "val": Counts(5_000, None, 4_559),
        "test": Counts(5_000, None, 4_527),
    },
    ("refcoco+", "unc"): {
        "train": Counts(42_278, 120_191, 16_992),
        "val": Counts(3_805, 10_758, 1_500),
        "testA": Counts(1_975, 5_726, 750),
        "testB": Counts(1_798, 4_889, 750),
    },
    ("refcocog", "umd"): {
        "train": Counts(42_226, 80_512, 21_899),
        "val": Counts(2_573, 4_896, 1_300),
        "test": Counts(5_023, 9_602, 2_600),
    },
    ("refcocog", "google"): {
        "train": Counts(44_822, 85_474, 24_698),
        "val": Counts(5_000, 9_536, 4_650),
    },
}
REMARKS = {("refcoco", "unc"): "Yu et al. 2016 count 142,209 expressions, their splits hold one more"}

# Images of COCO 2014 (Lin et al. 2014) and the categories that have annotations.
COCO_IMAGES = {"train2014": 82_783, "val2014": 40_504}
COCO_CATEGORIES = 80

# The server of the University of North Carolina is gone; the Internet Archive has its files.
_ARCHIVE = "https://web.archive.org/web/{}/https://bvisionweb1.cs.unc.edu/licheng/referit/data/{}.zip"
REFS_LINKS = {
    "refcoco": _ARCHIVE.format("20220413011718", "refcoco"),
    "refcoco+": _ARCHIVE.format("20220413011656", "refcoco+"),
    "refcocog": _ARCHIVE.format("20220413012904", "refcocog"),
}
COCO_ANNOTATIONS_LINK = "http://images.cocodataset.org/annotations/annotations_trainval2014.zip"
COCO_IMAGES_LINK = "http://images.cocodataset.org/zips/{}.zip"
