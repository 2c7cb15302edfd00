"""The state of one tenant's engine: what answers, and how far it has come in the tenant's log."""

from dataclasses import dataclass, field

from steerec.engine.availability import Availability
from steerec.engine.recommender import Recommender
from steerec.engine.serving import Policy
from steerec.store.catalogue import Entry


@dataclass
class State:
    """What a swap replaces as a whole.

    Attributes:
        seq: the place in the tenant's order up to which all was taken in.
        ahead: places above it that were taken in before those between.
        items_seq: as `seq`, of the catalogue; all of it is read at the start, since no model
            tells what is hidden now.
        n_founded: `size_of` a model without events when it was last made anew.
        held: items as they were last written here, until `follow_items` has come to them.
        unread_after: items above this place joined without vectors, as the encoder was not loaded
            yet; None: none did.
        erased: digest of a user → place of their erasure: what came before it counts no more.
    """

    recommender: Recommender
    availability: Availability
    policy: Policy
    seq: int
    ahead: set[int] = field(default_factory=set)
    items_seq: int = 0
    erased_seq: int = 0
    n_founded: int = 0
    held: dict[str, Entry] = field(default_factory=dict)
    unread_after: int | None = None
    erased: dict[bytes, int] = field(default_factory=dict)
