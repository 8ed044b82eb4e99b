"""The methods that make distilled sets, and their options, as data: the commands list them without importing torch."""

CLASSES = 100  # SRe2L, CDA: classes optimised together, one image of each: --batch-size in all of their scripts
STARTS = ("noise", "real", "rded")  # SRe2L, CDA: what images start from
CURRICULA = ("step", "linear", "cosine")  # CDA: how the lower bound of the crops falls
METHODS = {  # name: (module:function of this folder, what it is)
    "dm": ("dm:dm", "Distribution matching (Zhao & Bilen, WACV 2023, arXiv 2110.04181)"),
    "rded": ("rded:rded", "RDED (Sun et al., CVPR 2024, arXiv 2312.03526)"),
    "sre2l": ("recovery:sre2l", "SRe2L (Yin, Xing & Shen, NeurIPS 2023, arXiv 2306.13092)"),
    "cda": ("recovery:cda", "CDA (Yin & Shen, TMLR 2024, arXiv 2311.18838)"),
}
