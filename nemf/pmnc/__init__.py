"""PatchMatch-based neighbourhood consensus (Lee, DeGol, Fragoso and Sinha, CVPR 2021).

The paper's network is not public. What its authors state of it is kept; what they leave open is chosen here, and said
where it is.
"""
