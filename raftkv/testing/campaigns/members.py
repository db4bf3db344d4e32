"""``members``: partitions between network namespaces, and changes of membership amid them."""

from __future__ import annotations

from raftkv.testing.campaigns.changes import change_members
from raftkv.testing.campaigns.frame import Campaign, Part
from raftkv.testing.campaigns.namespaces import lacks_namespaces
from raftkv.testing.campaigns.partitions import partition_members

MEMBERS = Campaign(
    "members",
    "partitions of real clusters between network namespaces, and changes of membership amid them",
    (
        Part(
            name="partitions",
            about="four partitions of three or five members, some of which are killed",
            run=partition_members,
            cases=5,
            lacks=lacks_namespaces,
        ),
        Part(
            name="changes",
            about="five changes of membership amid partitions and kills",
            run=change_members,
            cases=3,
            lacks=lacks_namespaces,
        ),
    ),
)
