"""Where did my accuracy go? The papers' studies of a user's own network on its hardware.

Each study is a list of items (plain data), one importable function `measure(item) -> dict` that depends on nothing but its
item, and a function that turns the results into a verdict. The sweep engine runs the items; studies that search (bisection)
do so in rounds of items.

sensitivity   how strong may each effect become (R003-44 ... R003-47)
layers        which layers suffer, and which mixed deployment is good enough (R003-50, R003-51)
budget        accuracy lost per effect and per layer, and what would change if
robustness    noise on pre-activations: midpoint levels, signal growth, error split (R002)
diagnose      whether training can compensate an effect: gradients under it (R000)
"""
