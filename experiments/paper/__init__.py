"""The paper's tables and figures, each made anew from runs of ours."""
