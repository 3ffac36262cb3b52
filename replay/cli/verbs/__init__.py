"""List the verbs, in the order of the help; a new verb is a module here and a line in this list."""

from typing import Final

from replay.cli.verb import Verb
from replay.cli.verbs.blame import BLAME
from replay.cli.verbs.check import CHECK
from replay.cli.verbs.compare import COMPARE
from replay.cli.verbs.cost import COST
from replay.cli.verbs.dump import DUMP
from replay.cli.verbs.fleet import FLEET
from replay.cli.verbs.generate import GENERATE
from replay.cli.verbs.golden import GOLDEN
from replay.cli.verbs.import_ import IMPORT
from replay.cli.verbs.index import INDEX
from replay.cli.verbs.info import INFO
from replay.cli.verbs.live import LIVE
from replay.cli.verbs.minimise import MINIMISE
from replay.cli.verbs.pack import PACK
from replay.cli.verbs.policies import POLICIES_VERB
from replay.cli.verbs.record import RECORD
from replay.cli.verbs.recover import RECOVER
from replay.cli.verbs.state import STATE
from replay.cli.verbs.verify import VERIFY

VERBS: Final[tuple[Verb, ...]] = (
    *(RECORD, IMPORT, INFO, DUMP, COMPARE, CHECK, GOLDEN, LIVE, STATE, BLAME, COST, POLICIES_VERB, INDEX),
    *(VERIFY, RECOVER, MINIMISE, PACK, GENERATE, FLEET),
)
