"""PCK the plainest way: one loop over pairs and keypoints, the published protocols written out one after another.

Pairs and matches are lists of dicts, as pyarrow's to_pylist gives them. Nothing here is taken from the pipeline.
"""

import math

FORTH, BACK = "source_to_target", "target_to_source"

# name: (directions, what T is measured on, of which image, square the images are stretched to, < instead of <=)
# "judged" is the image the error is measured in: the target for source_to_target, the source for target_to_source
TABLE = {
    "spair": ([FORTH], "box", "target", None, False),
    "nemf": ([BACK], "box", "source", None, False),
    "cats": ([BACK], "box", "source", 256, False),
    "dhpf": ([FORTH], "box", "target", 240, False),
    "lpmflow": ([FORTH], "box", "source", 512, False),
    "geoaware-image": ([FORTH], "box", "target", "letterbox 840", True),
    "geoaware-point": ([FORTH], "box", "target", "letterbox 840", True),
    "pf-pascal": ([FORTH, BACK], "image", "judged", None, False),
    "pf-pascal@224": ([FORTH, BACK], "image", "judged", 224, False),
    "pf-pascal@240": ([FORTH, BACK], "image", "judged", 240, False),
    "pf-pascal@256": ([FORTH, BACK], "image", "judged", 256, False),
    "pf-pascal@512": ([FORTH, BACK], "image", "judged", 512, False),
    "pf-willow-bbox-kp": ([FORTH, BACK], "keypoints", "judged", None, False),
    "pf-willow-bbox-legacy": ([FORTH, BACK], "keypoints padded with -1", "judged", 256, False),
    "pf-willow-bbox-legacy@240": ([FORTH, BACK], "keypoints padded with -2", "judged", 240, False),
}
KNOWN_BY = {name: "point" if name == "geoaware-point" else "image" for name in TABLE}


def plain_pck(name, direction, pairs, matches, alpha, failed):
    """Percentages `image`, `point`, `class` (None without any class) and `categories`, by name; with `n_pairs`,
    `n_points`, `n_failed`. A percentage of nothing is 0."""
    _, base, base_of, space, strictly = TABLE[name]
    query, judged = ("source", "target") if direction == FORTH else ("target", "source")
    base_image = judged if base_of == "judged" else base_of
    answers = {row["pair_id"]: row for row in matches if row["direction"] == direction and row["status"] == "ok"}
    shares, correct_points, points, n_failed = {}, 0, 0, 0

    for pair in pairs:
        query_points, true_points = pair[f"{query}_xy_px"] or [], pair[f"{judged}_xy_px"] or []
        if not query_points:
            continue
        category = "unknown" if pair["category"] is None else pair["category"]
        answer = answers.get(pair["pair_id"])
        if answer is None:
            n_failed += 1
            if failed == "wrong":
                shares.setdefault(category, []).append(0.0)
                points += len(true_points)
            continue

        factors = {}
        for image, role in ((query, "query"), (judged, "reference")):
            if space is None:
                factors[image] = (1.0, 1.0)
            else:
                height, width = answer[f"{role}_hw"]
                if space == "letterbox 840":
                    factors[image] = (840 / max(width, height), 840 / max(width, height))
                else:
                    factors[image] = (space / width, space / height)
        x_factor, y_factor = factors[base_image]

        if base == "box":
            x_min, y_min, x_max, y_max = pair[f"{base_image}_box_xyxy"]
            longest = max((x_max - x_min) * x_factor, (y_max - y_min) * y_factor)
        elif base == "image":
            height, width = answer["reference_hw"]
            longest = max(width * x_factor, height * y_factor)
        else:
            xs = [x * x_factor for x, _ in pair[f"{base_image}_xy_px"]]
            ys = [y * y_factor for _, y in pair[f"{base_image}_xy_px"]]
            if "padded" in base:
                padding = -1 if base.endswith("-1") else -2
                xs.append(padding)
                ys.append(padding)
            longest = max(max(xs) - min(xs), max(ys) - min(ys))

        n_correct = 0
        for k in range(len(query_points)):
            found_x = answer["reference_xy_px"][k][0] * factors[judged][0]
            found_y = answer["reference_xy_px"][k][1] * factors[judged][1]
            true_x, true_y = true_points[k][0] * factors[judged][0], true_points[k][1] * factors[judged][1]
            if name == "cats":
                query_x, query_y = query_points[k][0] * factors[query][0], query_points[k][1] * factors[query][1]
                found_x += int(query_x) - query_x
                found_y += int(query_y) - query_y
            if math.isnan(found_x) or math.isnan(found_y):
                continue
            distance = math.sqrt((found_x - true_x) ** 2 + (found_y - true_y) ** 2)
            if distance < alpha * longest or (distance == alpha * longest and not strictly):
                n_correct += 1
        shares.setdefault(category, []).append(n_correct / len(query_points))
        correct_points += n_correct
        points += len(query_points)

    every = [share for of_category in shares.values() for share in of_category]
    categories = {category: 100 * _mean(of_category) for category, of_category in shares.items()}
    return {
        "image": 100 * _mean(every),
        "point": 100 * correct_points / points if points else 0.0,
        "class": _mean(list(categories.values())) if categories else None,
        "categories": categories,
        "n_pairs": len(every),
        "n_points": points,
        "n_failed": n_failed,
    }


def _mean(values):
    return sum(values) / len(values) if values else 0.0
