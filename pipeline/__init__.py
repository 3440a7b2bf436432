"""The stages that tables pass through: prepare, plan, decode, match, commit, evaluate, report and train."""
