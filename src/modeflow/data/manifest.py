"""Names and sizes of the data sets that are read from the data folder."""

from __future__ import annotations

__all__ = ["ANOMALY", "BINARY", "REGRESSION", "SHAPES2D"]

#: Regression tables of treforevans/uci_datasets: (rows, columns), the target being the last column.
REGRESSION: dict[str, tuple[int, int]] = {
    "bike": (17379, 18),
    "elevators": (16599, 19),
    "keggdirected": (48827, 21),
    "kin40k": (40000, 9),
    "pol": (15000, 27),
    "protein": (45730, 10),
    "pumadyn32nm": (8192, 33),
    "skillcraft": (3338, 20),
    "sml": (4137, 27),
}

#: ADBench's classical sets: (file stem, rows, columns).
ANOMALY: dict[str, tuple[str, int, int]] = {
    "aloi": ("1_ALOI", 49534, 27),
    "breastw": ("4_breastw", 683, 9),
    "campaign": ("5_campaign", 41188, 62),
    "cardiotocography": ("7_Cardiotocography", 2114, 21),
    "celeba": ("8_celeba", 202599, 39),
    "cover": ("10_cover", 286048, 10),
    "donors": ("11_donors", 619326, 10),
    "hepatitis": ("15_Hepatitis", 80, 19),
    "http": ("16_http", 567498, 3),
    "internetads": ("17_InternetAds", 1966, 1555),
    "ionosphere": ("18_Ionosphere", 351, 32),
    "landsat": ("19_landsat", 6435, 36),
    "letter": ("20_letter", 1600, 32),
    "lymphography": ("21_Lymphography", 148, 18),
    "mammography": ("23_mammography", 11183, 6),
    "mnist": ("24_mnist", 7603, 100),
    "musk": ("25_musk", 3062, 166),
    "pageblocks": ("27_PageBlocks", 5393, 10),
    "pima": ("29_Pima", 768, 8),
    "satellite": ("30_satellite", 6435, 36),
    "shuttle": ("32_shuttle", 49097, 9),
    "smtp": ("34_smtp", 95156, 3),
    "spambase": ("35_SpamBase", 4207, 57),
    "thyroid": ("38_thyroid", 3772, 6),
    "vertebral": ("39_vertebral", 240, 6),
    "waveform": ("41_Waveform", 3443, 21),
    "wbc": ("42_WBC", 223, 9),
    "wine": ("45_wine", 129, 13),
    "wpbc": ("46_WPBC", 198, 33),
    "yeast": ("47_yeast", 1484, 8),
}

_SHAPES = """
2d-10c=2990 2d-4c=1261 2dnormals=1000 2sp2glob=2000 D31=3100 birch-rg1=100000 birch-rg3=100000
cassini=1000 circle=1000 cluto-t4-8k=8000 cluto-t5-8k=8000 cluto-t7-10k=10000 complex8=2551
cure-t0-2000n-2D=2000 cure-t2-4k=4200 curves1=1000 curves2=1000 dartboard1=1000 dartboard2=1000
dense-disk-5000=5000 disk-1000n=1000 disk-3000n=3000 disk-4000n=4000 disk-4500n=4500
disk-4600n=4600 disk-5000n=5000 disk-6000n=6000 donut1=1000 donut2=1000 donutcurves=1000 dpc=1000
fourty=1000 impossible=3673 long2=1000 long3=1000 mopsi-finland=13467 rings=1000 s-set1=5000
s-set2=5000 s-set3=5000 sizes3=1000 sizes4=1000 sizes5=1000 smile1=1000 smile2=1000
spiralsquare=1500 square4=1000 square5=1000 threenorm=1000 twenty=1000 wingnut=1016 xclara=3000
"""

#: Two-dimensional point sets of deric/clustering-benchmark: rows.
SHAPES2D: dict[str, int] = {
    name: int(rows) for name, _, rows in (item.partition("=") for item in _SHAPES.split())
}

#: Binary tables of mgermain/MADE: (rows, columns). They are listed; a model for them comes later.
BINARY: dict[str, tuple[int, int]] = {
    "mushrooms": (8124, 112),
    "nips": (1740, 500),
    "dna": (3186, 180),
}
