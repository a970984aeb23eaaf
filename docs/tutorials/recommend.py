# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # From a text file to recommendations
#
# After this page you have trained a model on a file of your own, seen its learning curves, and recommended
# items to somebody whom it has never met. It needs `pip install -e ".[experiments]"` and takes some minutes.
#
# The file has a line for each user: the user's number and the items, the newest last. We take Amazon Beauty
# if its file is at hand, and else the built-in data set.

# %%
import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments.data import at_hand, load

data = load("beauty" if at_hand("beauty", None) else "synthetic")
items_of = np.split(data.item_ids[data.items - 1], np.cumsum(data.lengths)[:-1])
lines = [
    " ".join(map(str, [user, *items])) for user, items in zip(data.user_ids, items_of, strict=True)
]
Path("shop.txt").write_text("\n".join(lines))
print(lines[0][:60], "…")
print(f"{data.num_users:,} users, {data.num_items:,} items, {data.num_interactions:,} interactions")

# %% [markdown]
# ## Train, with and without smoothing
#
# Each user's last item is for the test, the one before for validation.

# %%
command = "python -m experiments.train --dataset shop.txt --epochs 30 --out runs"
words = [sys.executable, *command.split()[1:]]
print(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

# %% [markdown]
# ## The learning curves
#
# The command writes `curves.png` and `summary.md` into the folder of the runs.

# %%
from IPython.display import Image

Image("runs/curves.png", width=700)

# %% [markdown]
# ## Recommend
#
# For users of the file, and for anyone whose items we know:

# %%
from experiments.serving.recommender import Recommender

recommender = Recommender.load("runs/sasrec-sevo-adamw-seed0")
somebody = data.item_ids[[3, 14, 15]].tolist()
print(recommender.recommend({"somebody": somebody}, top_k=5))

# %% [markdown]
# `python -m experiments.recommend RUN --history FILE` does it for a file of people, and
# `python -m experiments.export RUN --out DIR` writes the vectors for a service of your own.
