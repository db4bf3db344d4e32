"""All campaigns, in the order in which the command line lists them."""

from __future__ import annotations

from raftkv.testing.campaigns.crash import CRASH
from raftkv.testing.campaigns.frame import Campaign
from raftkv.testing.campaigns.members import MEMBERS
from raftkv.testing.campaigns.power import POWER

CAMPAIGNS: tuple[Campaign, ...] = (CRASH, POWER, MEMBERS)
