"""commands: what the commands of Redis do to a store, without a socket.

running        requests in, replies out; batches that are one commit; what all share
strings  keys  expiry  transactions  scripting  connection  admin  introspection
               the commands, by their nouns; each enters its functions into the table
lcs            one of them that is longer
words          what arguments say: numbers, moments, options
keyspace       the store as commands see it, who watches what
session        what is remembered of a connection
registry       the table of commands, and what is known of each
"""

from pmemheap.kvstore.commands import (
    admin,
    connection,
    expiry,
    introspection,
    keys,
    scripting,
    strings,
    transactions,
)
from pmemheap.kvstore.commands.connection import LAST_WORDS
from pmemheap.kvstore.commands.running import Call, Commands, Facts, Limits
from pmemheap.kvstore.commands.session import Session

__all__ = [
    "LAST_WORDS",
    "Call",
    "Commands",
    "Facts",
    "Limits",
    "Session",
    "admin",
    "connection",
    "expiry",
    "introspection",
    "keys",
    "scripting",
    "strings",
    "transactions",
]
