"""The stability bench: known faults, every guard, the same seeds, and advice that follows from the table.

Read ``faults`` (what goes wrong), ``guards`` (what is tried against it), ``models`` (who suffers), then ``runs`` (one
training run), ``bench`` (all of them, kept on disk), ``table`` (what the seeds allow one to say) and ``advice``.
"""
