"""What a row is: a table's or an image, behind one contract (`Domain`)."""

from modeflow.domains.base import Domain, Encoded, RowsToScore
from modeflow.domains.image import ImageDomain
from modeflow.domains.mixed import MixedDomain
from modeflow.domains.registry import DOMAINS, domain_of
from modeflow.domains.table import TableDomain

__all__ = [
    "DOMAINS",
    "Domain",
    "Encoded",
    "ImageDomain",
    "MixedDomain",
    "RowsToScore",
    "TableDomain",
    "domain_of",
]
