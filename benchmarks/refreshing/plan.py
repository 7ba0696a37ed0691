"""What is tried, and what is confirmed: named before the runs on test photographs."""

from quality.plan import Stage

FROZEN, PIXEL = "frozen", "L1"
TRIED = {
    FROZEN: (2.0,),
    "adapted once, triplet": (2.0,),
    "adapted once, graded": (2.0,),
    "adapted once, masked": (2.0,),
    "refreshed, triplet": (2.0,),
    "refreshed, graded": (2.0,),
    "refreshed, masked": (2.0,),
    "patch features": (0.5, 1.0, 2.0),
    "tafm-lite, patch features": (0.5, 1.0),
    "tafm-lite, RaGAN": (0.1, 0.2),
}
# Of each kind the one that the trials found best, and its ratio.
CONFIRMED: dict[str, float] = {
    FROZEN: 2.0,
    "adapted once, triplet": 2.0,
    "refreshed, triplet": 2.0,
    "patch features": 1.0,
    "tafm-lite, RaGAN": 0.1,
}
CONTRASTS = tuple(arm for arm in CONFIRMED if arm.startswith(("adapted", "refreshed")))
# A win: so much by one of the deciding metrics at both prices, its interval above 0; and no metric worse by more.
DECIDING, GUARDS = ("lpips", "stlpips"), ("lpips", "stlpips", "dists")
LEAST_GAIN, MOST_LOSS = 2.0, 1.0
STAGES = {
    "trials": Stage("Which form of each kind, and which ratio?", tuple(TRIED), (100,), tested=False),
    "confirmation": Stage("Does it hold over seeds, under other blur, on real pairs?", tuple(CONFIRMED), (0, 1, 2, 3)),
}
