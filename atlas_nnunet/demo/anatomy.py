"""The phantom's anatomy: shapes, places, densities. Tables only.

Millimetres in patient space: x to the **right** of the patient, y to anterior, z to superior (RAS,
as NIfTI), origin in front of the third lumbar vertebra. Plausible, not measured: sizes and places
follow textbook anatomy of a slim adult; densities the usual ranges of each contrast phase.
"""

from __future__ import annotations

from dataclasses import dataclass

PHASES = ("native", "arterial", "portal")


@dataclass(frozen=True)
class Blob:
    """An ellipsoid: centre, semi-axes in mm, rotation about the y axis in degrees."""

    center: tuple[float, float, float]
    axes: tuple[float, float, float]
    tilt_deg: float = 0.0


@dataclass(frozen=True)
class Tube:
    """A tube along a polyline; the radius runs linearly from first to last point."""

    points: tuple[tuple[float, float, float], ...]
    radius: tuple[float, float]
    hollow: bool = False  # gas, fluid or contrast inside a wall


Shape = Blob | Tube

# fmt: off
# Painted in this order: where two meet, the later one keeps the voxel.
ORGANS: dict[str, tuple[Shape, ...]] = {
    "lung_right":    (Blob((75, 0, 235), (58, 76, 115)),),
    "lung_left":     (Blob((-75, 0, 235), (54, 74, 115)),),
    "heart":         (Blob((-22, 25, 195), (50, 44, 42), 25),),
    "vertebrae":     (Tube(((0, -66, -150), (0, -60, -40), (0, -70, 120), (0, -78, 345)), (21, 15)),),
    "hips":          (Blob((98, -20, -135), (26, 46, 52), 20), Blob((-98, -20, -135), (26, 46, 52), -20)),
    "femur_right":   (Blob((88, 0, -185), (24, 24, 24)), Tube(((88, 0, -185), (116, -6, -205), (106, 2, -320)), (15, 14))),
    "femur_left":    (Blob((-88, 0, -185), (24, 24, 24)), Tube(((-88, 0, -185), (-116, -6, -205), (-106, 2, -320)), (15, 14))),
    "colon":         (Tube(((84, 22, -88), (92, 8, -30), (90, -2, 38), (62, 52, 34), (5, 74, 8), (-58, 56, 52), (-94, -8, 78),
                            (-98, -18, 0), (-94, -8, -70), (-52, 14, -108), (-14, -6, -116)), (21, 15), True),),
    "rectum":        (Tube(((-14, -6, -116), (0, -38, -146), (0, -34, -195)), (17, 17), True),),
    "duodenum":      (Tube(((22, 30, 64), (46, 18, 60), (50, 2, 32), (24, -4, 16), (-16, -2, 24)), (12, 11), True),),
    "stomach":       (Tube(((-38, 12, 158), (-66, 24, 122), (-48, 46, 78), (-8, 48, 62), (22, 30, 64)), (30, 13), True),),
    "liver":         (Blob((78, 6, 116), (70, 74, 66), -12), Blob((8, 40, 128), (58, 36, 32), -10)),
    "spleen":        (Blob((-100, -34, 124), (26, 44, 50), 18),),
    "gall_bladder":  (Blob((52, 48, 72), (12, 13, 26), 15),),
    "pancreas":      (Tube(((32, 2, 56), (10, 12, 72), (-28, 2, 86), (-72, -20, 106)), (15, 9)),),
    "kidney_right":  (Blob((62, -50, 44), (27, 24, 52), 12),),
    "kidney_left":   (Blob((-62, -50, 58), (27, 24, 52), -12),),
    "adrenal_gland_right": (Blob((42, -38, 103), (6, 11, 14), 20),),
    "adrenal_gland_left":  (Blob((-38, -36, 110), (6, 11, 14), -20),),
    "esophagus":     (Tube(((-4, -34, 340), (-8, -28, 205), (-24, -4, 160)), (8, 9)),),
    "postcava":      (Tube(((20, -6, 182), (22, -20, 110), (20, -28, 20), (15, -30, -40)), (12, 12)),),
    "aorta":         (Tube(((-14, -42, 330), (-14, -42, 190), (-10, -34, 90), (-6, -32, -38)), (13, 10)),),
    "celiac_trunk":  (Tube(((-9, -24, 98), (-8, -4, 104), (14, 2, 104)), (4.5, 4)),),
    "portal_vein_and_splenic_vein": (Tube(((52, 8, 100), (24, 0, 76), (-22, -8, 90), (-82, -28, 116)), (7.5, 5)),),
    "bladder":       (Blob((0, 34, -164), (38, 32, 30)),),
    "prostate":      (Blob((0, 12, -208), (23, 17, 17)),),
}

# The small bowel lies in coils: a closed curve of these frequencies, drawn anew for each patient.
COILS_CENTER_MM, COILS_AXES_MM = (0, 34, -40), (66, 34, 62)
COILS_RADIUS_MM, COILS_POINTS = 13.0, 46

# A tree in the liver, from the vena cava outwards.
HEPATIC_VESSELS = (
    Tube(((24, -6, 162), (70, 10, 132), (118, 10, 108)), (7, 4)),
    Tube(((24, -6, 162), (66, 34, 124), (86, 56, 96)), (7, 4)),
    Tube(((24, -6, 162), (10, 26, 140), (-22, 48, 132)), (6, 4)),
    Tube(((52, 8, 100), (84, -10, 96), (112, -22, 104)), (7, 4)),
)

# Hounsfield units in native, arterial and portal-venous phase. Neighbours overlap on purpose.
TISSUE_HU: dict[str, tuple[float, float, float]] = {
    "air": (-1000, -1000, -1000), "fat": (-105, -105, -100), "muscle": (52, 56, 62),
    "lung_right": (-830, -820, -815), "lung_left": (-830, -820, -815), "heart": (42, 190, 140),
    "vertebrae": (190, 200, 205), "hips": (230, 230, 235), "femur_right": (280, 280, 280),
    "femur_left": (280, 280, 280), "colon": (38, 62, 78), "rectum": (38, 60, 74),
    "duodenum": (40, 72, 84), "stomach": (40, 70, 82), "intestine": (38, 80, 92),
    "liver": (58, 72, 108), "spleen": (48, 118, 116), "gall_bladder": (9, 10, 12),
    "pancreas": (42, 100, 94), "kidney_right": (33, 140, 176), "kidney_left": (33, 140, 176),
    "adrenal_gland_right": (28, 68, 76), "adrenal_gland_left": (28, 68, 76),
    "esophagus": (36, 48, 60), "postcava": (40, 70, 142), "aorta": (42, 310, 158),
    "celiac_trunk": (42, 300, 150), "portal_vein_and_splenic_vein": (42, 120, 168),
    "bladder": (6, 6, 10), "prostate": (42, 64, 80),
}
HEPATIC_VESSEL_HU = (44, 84, 152)
LUMEN_HU = {"gas": -880.0, "fluid": 18.0, "contrast": 210.0}


@dataclass(frozen=True)
class Lesion:
    """A kind of tumour: where, how often, how large, how dense.

    Attributes:
        hosts: One of these organs holds it.
        probability: That a patient has any.
        most: Greatest number in a patient.
        radius_mm: Range.
        hu: Density in each phase.
    """

    hosts: tuple[str, ...]
    probability: float
    most: int
    radius_mm: tuple[float, float]
    hu: tuple[float, float, float]


LESIONS = {
    "kidney_cyst":          Lesion(("kidney_left", "kidney_right"), 0.35, 2, (5, 14), (6, 8, 10)),
    "kidney_tumor":         Lesion(("kidney_left", "kidney_right"), 0.30, 1, (8, 20), (34, 90, 96)),
    "liver_tumor":          Lesion(("liver",), 0.60, 3, (6, 22), (36, 44, 60)),
    "pancreas_tumor":       Lesion(("pancreas",), 0.30, 1, (5, 11), (36, 58, 58)),
    "hepatic_vessel_tumor": Lesion(("hepatic_vessel",), 0.20, 1, (4, 8), (38, 52, 66)),
    "lung_tumor":           Lesion(("lung_left", "lung_right"), 0.30, 2, (5, 16), (36, 60, 66)),
    "colon_tumor":          Lesion(("colon",), 0.25, 1, (9, 18), (42, 76, 90)),
}
# fmt: on
