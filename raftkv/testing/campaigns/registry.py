"""All campaigns, in the order in which the command line lists them."""

from __future__ import annotations

from raftkv.testing.campaigns.crash import CRASH
from raftkv.testing.campaigns.frame import Campaign

CAMPAIGNS: tuple[Campaign, ...] = (CRASH,)
