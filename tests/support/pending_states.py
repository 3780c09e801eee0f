"""Two arrangements that a search asks DFT for: a charge order, and ions whose order is left open."""

from samples import LEVEL

from workflow_lib.stages.dft.settings import DftSettings

SETTINGS = DftSettings(level=LEVEL, cell="fixed")
GIVEN, OPEN = "1x1x1:Na1100:Fe2323", "1x1x1:Na1010"
