"""What is tried, and what is confirmed: named before the runs on test photographs."""

from quality.plan import Stage

FROZEN, LONGER, PIXEL = "frozen", "frozen, longer", "L1"
# How the arms of the confirmation are tuned.
TUNED = "anchored 6"
TRIED = {
    FROZEN: (2.0,),
    "adapted once, triplet": (2.0,),
    "adapted once, anchored 3": (2.0,),
    "adapted once, anchored 6": (2.0,),
    "adapted once, graded": (2.0,),
    "adapted once, masked": (2.0,),
    "refreshed, triplet": (2.0,),
    "refreshed, anchored 6": (2.0,),
    "refreshed, masked": (2.0,),
    "patch features": (1.0,),
    "tafm-lite, patch features": (0.25, 0.5),
    "tafm-lite, RaGAN": (0.05, 0.1),
}
# Of each kind the one that the trials found best, and its ratio, of the refreshed ones two: one is better by ST-LPIPS,
# the other by LPIPS and DISTS. And the default with the time of adapting on top.
CONFIRMED: dict[str, float] = {
    FROZEN: 2.0,
    LONGER: 2.0,
    f"adapted once, {TUNED}": 2.0,
    f"refreshed, {TUNED}": 2.0,
    "refreshed, masked": 2.0,
    "tafm-lite, patch features": 0.25,
    "tafm-lite, RaGAN": 0.1,
}
CONTRASTS = tuple(arm for arm in CONFIRMED if arm.startswith(("adapted", "refreshed")))
# A win: so much by one of the deciding metrics at both prices, its interval above 0; and no metric worse by more.
DECIDING, GUARDS = ("lpips", "stlpips"), ("lpips", "stlpips", "dists")
LEAST_GAIN, MOST_LOSS = 2.0, 1.0
STAGES = {
    "trials": Stage("Which form of each kind, and which ratio?", tuple(TRIED), (100,), tested=False),
    "confirmation": Stage("Does it hold over seeds, and on real pairs?", tuple(CONFIRMED), tuple(range(8))),
}
