"""All campaigns, in the order in which the command line lists them."""

from __future__ import annotations

from raftkv.testing.campaigns.agree import DISKS
from raftkv.testing.campaigns.crash import CRASH
from raftkv.testing.campaigns.flip import FLIP
from raftkv.testing.campaigns.frame import Campaign
from raftkv.testing.campaigns.ioerror import IOERROR
from raftkv.testing.campaigns.members import MEMBERS
from raftkv.testing.campaigns.power import POWER
from raftkv.testing.campaigns.torn import TORN

CAMPAIGNS: tuple[Campaign, ...] = (CRASH, POWER, TORN, FLIP, IOERROR, MEMBERS, DISKS)
