# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # New items with a category graph
#
# After this page you know what happens to rows that no batch ever touches, and two ways to give them a
# place: smoothing over a graph of categories during training, and the mean of their neighbours after it. The
# data are made up: 300 users like one or two of 20 categories of 15 items each, and 3 items of each category
# have no interaction yet.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import sevo_jax

rng = np.random.default_rng(0)
USERS, CATEGORIES, EACH, NEW = 300, 20, 15, 3
category = np.repeat(np.arange(CATEGORIES), EACH)
is_new = np.tile(np.arange(EACH) < NEW, CATEGORIES)
likes = np.stack([rng.choice(CATEGORIES, 2, replace=False) for _ in range(USERS)])
users = np.repeat(np.arange(USERS), 6)
items = np.array(
    [rng.choice(np.flatnonzero((category == rng.choice(likes[u])) & ~is_new)) for u in users]
)
members = [np.flatnonzero(category == c) for c in range(CATEGORIES)]
graph = sevo_jax.category_graph(members, num_nodes=category.size)
print(f"{items.size} interactions, {is_new.sum()} of {category.size} items are new")

# %% [markdown]
# ## Training
#
# Matrix factorisation, one negative for each positive. New items are drawn as negatives like all others.


# %%
def loss(params, user, item, negative):
    of_user = params["users"][user]
    difference = (of_user * (params["items"][item] - params["items"][negative])).sum(-1)
    return jax.nn.softplus(-difference).mean()


def train(optimizer, steps=1500):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "users": 0.1 * jax.random.normal(keys[0], (USERS, 16)),
        "items": 0.1 * jax.random.normal(keys[1], (category.size, 16)),
    }

    def step(carry, key):
        params, state = carry
        of_pair, of_negative = jax.random.split(key)
        pair = jax.random.randint(of_pair, (128,), 0, items.size)
        negative = jax.random.randint(of_negative, (128,), 0, category.size)
        batch = jnp.asarray(users)[pair], jnp.asarray(items)[pair], negative
        gradients = jax.grad(loss)(params, *batch)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(
        step, (params, optimizer.init(params)), jax.random.split(keys[2], steps)
    )
    return jax.tree.map(np.asarray, params)


# %% [markdown]
# ## Where do new items of a liked category rank among all items?
#
# A user's new items of liked categories, by their mean rank from 0 (first) to 1 (last); .5 is chance. At three
# learning rates for each way.


# %%
def mean_rank(params, which):
    scores = params["users"] @ params["items"].T
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1) / (category.size - 1)
    liked = (category[None, None] == likes[:, :, None]).any(axis=1)
    return ranks[liked & which].mean()


def filled(params):
    known = jnp.asarray(~is_new, jnp.float32)[:, None]
    neighbours = sevo_jax.spmm(graph, params["items"] * known) / sevo_jax.spmm(graph, known)
    return params | {"items": np.where(is_new[:, None], neighbours, params["items"])}


ranks = {}
for rate in (0.003, 0.01, 0.03):
    plain = train(optax.adamw(rate))
    smoothed = train(sevo_jax.sevo_adamw(rate, graph, tables="items", beta=0.9))
    ways = {"AdamW": plain, "AdamW, then filled": filled(plain), "SEvo-AdamW": smoothed}
    for name, params in ways.items():
        ranks[name, rate] = mean_rank(params, is_new), mean_rank(params, ~is_new)
        new, known = ranks[name, rate]
        print(f"rate {rate:5} {name:18} new {new:.3f}, known {known:.3f}")

# %%
names = list(dict.fromkeys(name for name, _ in ranks))
best = [min(own for (way, _), own in ranks.items() if way == name) for name in names]
places = np.arange(len(names))
plt.bar(places - 0.2, [new for new, _ in best], 0.4, label="new items")
plt.bar(places + 0.2, [known for _, known in best], 0.4, label="known items")
plt.axhline(0.5, color="black", lw=0.8, ls="--", label="chance")
plt.xticks(places, names)
plt.ylabel("mean rank, lower is better")
plt.legend()
plt.show()

# %% [markdown]
# Without a graph, new items rank by chance. To fill their rows after training ranks them best here, SEvo
# second. SEvo ranks the known items best, since they learn from their neighbours, too.
#
# `python -m experiments.reproduce cold` measures the same on Amazon Beauty.
