"""Sets of social norms by path: five formats, one table, splits that keep a group on one side."""

from tether.data.sets.norms.chat_table import chat_numbers, chat_table
from tether.data.sets.norms.egonormia import MultipleChoice, NormItem, load_egonormia
from tether.data.sets.norms.norm_conflicts import load_norm_conflicts
from tether.data.sets.norms.normbank import NormConstraint, format_constraints, load_normbank, parse_constraints
from tether.data.sets.norms.normdial import (
    Dialogue,
    NormTurn,
    TurnDataset,
    load_normdial,
    parse_labelled_dialogue,
    turn_table,
)
from tether.data.sets.norms.splits import check_apart, check_disjoint, group_split, group_test_rows, leave_one_out
from tether.data.sets.norms.stream_norms import ChatItem, consolidate, load_stream_norms
from tether.data.sets.norms.table import NormTable

__all__ = [
    "ChatItem",
    "Dialogue",
    "MultipleChoice",
    "NormConstraint",
    "NormItem",
    "NormTable",
    "NormTurn",
    "TurnDataset",
    "chat_numbers",
    "chat_table",
    "check_apart",
    "check_disjoint",
    "consolidate",
    "format_constraints",
    "group_split",
    "group_test_rows",
    "leave_one_out",
    "load_egonormia",
    "load_norm_conflicts",
    "load_normbank",
    "load_normdial",
    "load_stream_norms",
    "parse_constraints",
    "parse_labelled_dialogue",
    "turn_table",
]
