# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Why it works
#
# After this page you know why SEvo smooths steps and not embeddings, what the paper's three theorems say in
# plain words, and what the moment correction does. Every picture is made by the code above it.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import sevo_jax

# %% [markdown]
# ## Steps, not embeddings
#
# A graph neural network smooths the embeddings themselves, in every forward pass. That costs at inference, and
# it pulls neighbours together whatever the loss says. SEvo smooths how the table *moves*: neighbours move
# alike, and a row that the loss wants elsewhere still gets there. After training the table is a table.
#
# A step at one node of a ring of 41, smoothed: the farther a node is, the less of it arrives, and a larger β
# carries it farther. Here the parts add up to 1 for every β, as the series is rescaled.

# %%
nodes = np.arange(41)
ring = sevo_jax.edge_graph(nodes, (nodes + 1) % 41, num_nodes=41)
step = jnp.zeros((41, 1)).at[20].set(1.0)
for beta in (0.0, 0.5, 0.99):
    smoothed = sevo_jax.smooth(ring, step, beta=beta, num_layers=3)
    plt.plot(nodes, smoothed[:, 0], marker=".", label=f"β = {beta}")
plt.xlabel("node")
plt.ylabel("smoothed step, L = 3")
plt.legend()
plt.show()

# %% [markdown]
# The exact minimum of the paper's Equation 6 weighs two wishes: to stay near the raw step, and to differ little
# between neighbours. β moves the weight from the first to the second. The series of L products is an
# approximation of it that no node beyond L steps feels.

# %%
exact = sevo_jax.smooth(ring, step, beta=0.99, method="exact")
for layers in (1, 3, 10, 30):
    smoothed = sevo_jax.smooth(ring, step, beta=0.99, num_layers=layers)
    plt.plot(nodes, smoothed[:, 0], label=f"L = {layers}")
plt.plot(nodes, exact[:, 0], "k--", label="exact")
plt.xlabel("node")
plt.ylabel("smoothed step, β = .99")
plt.legend()
plt.show()

# %% [markdown]
# ## Theorem 1: the step still goes downhill
#
# A smoothed step should make an angle of less than 90 degrees with the raw one, or the loss may rise. For the
# Neumann series that holds for every β in [0, 1) and every L. For the usual iteration,
# `psi_l = β Ã psi_{l-1} + (1 - β) x`, it is sure only below β = 1/2. The picture shows the worst case over all
# steps on a path of two nodes: the smallest eigenvalue of each transformation.

# %%
pair = sevo_jax.edge_graph([0], [1], num_nodes=2)
betas = np.linspace(0, 0.99, 34)
for method, layers in (("neumann", 3), ("iterative", 3), ("iterative", 4)):
    lowest = [
        np.linalg.eigvalsh(sevo_jax.smooth(pair, jnp.eye(2), beta, layers, method=method))[0]
        for beta in betas
    ]
    plt.plot(betas, lowest, label=f"{method}, L = {layers}")
plt.axhline(0, color="black", lw=0.8)
plt.xlabel("β")
plt.ylabel("smallest eigenvalue")
plt.legend()
plt.show()

# %% [markdown]
# ## Theorem 2: why the series is rescaled
#
# Without rescaling, `(1 - β) Σ β^l Ã^l`, the step shrinks to at most `1 - β^(L+1)` of its size: at β = .99 and
# L = 3 to 4%. The bound on the rate of convergence then has `(1 - β)²` where it could have `1 - β`. The factor
# `(1 - β) / (1 - β^(L+1))` gives the size back, and no learning rate has to be searched for it.

# %%
for method in ("neumann_unscaled", "neumann"):
    sizes = [
        jnp.linalg.norm(sevo_jax.smooth(pair, jnp.ones((2, 1)), beta, 3, method=method))
        / np.sqrt(2)
        for beta in betas
    ]
    plt.plot(betas, sizes, label=method)
plt.xlabel("β")
plt.ylabel("size of a step on which neighbours agree")
plt.legend()
plt.show()

# %% [markdown]
# ## Theorem 3: rows that rest
#
# A batch meets few rows. Adam's first moment fades by .9 a step, its second by .999, so the step of a row
# that is not updated fades, too (Proposition 1), and neighbours would average steps of different ages. The
# correction holds the bias-corrected moments of a row whose gradient is zero: its step keeps its size until it
# is updated again. Here a row is updated in the first ten of forty steps.


# %%
def sizes(correction):
    tx = sevo_jax.scale_by_adam(moment_correction=correction)
    params = {"table": jnp.ones((2, 1))}
    state, found = tx.init(params), []
    for t in range(40):
        gradient = {"table": jnp.ones((2, 1)).at[0].set(1.0 if t < 10 else 0.0)}
        updates, state = tx.update(gradient, state, params)
        found.append(float(updates["table"][0, 0]))
    return found


for name, correction in (("Adam", False), ("corrected", {"table": True})):
    plt.plot(sizes(correction), label=name)
plt.axvline(9.5, color="black", lw=0.8, ls=":")
plt.xlabel("step")
plt.ylabel("size of the row's step")
plt.ylim(0)
plt.legend()
plt.show()

# %% [markdown]
# By itself the correction brought nothing: [Rows that are rarely updated](../rare-rows.md). It belongs to the
# smoothing, which averages the steps that it keeps.
#
# ## Smoothing that waits
#
# ψ is linear: to smooth k steps one by one, or their sum at once, moves the table by the same, if the gradients
# are the same. That is `every=k`. In real training they are not the same, since the raw steps between change
# the next gradients; on Beauty every ten epochs came out ahead of every step ([When to use it](../when.md)).
#
# The property tests of these statements are in `tests/sevo_jax/test_theorems.py`.
