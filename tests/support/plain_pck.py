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
    "spair-dagger": ([FORTH], "box", "target", None, False),
    "spair-geometry-aware": ([FORTH], "box", "target", "letterbox 840", True),
    "marco": ([FORTH], "box", "target", 770, False),
    "marco-ap10k": ([FORTH], "box", "target", "letterbox 770", False),
    "ap10k": ([FORTH], "box", "target", "letterbox 840", True),
    "ap10k-geoaware": ([FORTH], "box", "target", "letterbox 840", True),
    "soco": ([FORTH], "box or image", "target", None, True),
    "soco-cc": ([FORTH], "box or image", "target", None, True),
    "cub-dem": ([FORTH], "box", "target", None, False),
    "cub-asic": ([FORTH], "box and 5 % on each side", "target", None, True),
    "cub-geco": ([FORTH], "box and 5 % on each side", "target", None, False),
    "pf-pascal": ([FORTH, BACK], "image", "judged", None, False),
    "pf-pascal@224": ([FORTH, BACK], "image", "judged", 224, False),
    "pf-pascal@240": ([FORTH, BACK], "image", "judged", 240, False),
    "pf-pascal@256": ([FORTH, BACK], "image", "judged", 256, False),
    "pf-pascal@512": ([FORTH, BACK], "image", "judged", 512, False),
    "pf-willow-bbox-kp": ([FORTH, BACK], "keypoints", "judged", None, False),
    "pf-willow-bbox-legacy": ([FORTH, BACK], "keypoints padded with -1", "judged", 256, False),
    "pf-willow-bbox-legacy@240": ([FORTH, BACK], "keypoints padded with -2", "judged", 240, False),
}
KNOWN_BY = {
    **dict.fromkeys(TABLE, "image"),
    **dict.fromkeys(("geoaware-point", "cub-asic", "cub-geco"), "point"),
    **dict.fromkeys(("soco", "soco-cc"), "class"),
}


def plain_pck(name, direction, pairs, matches, alpha, failed):
    """Percentages `image`, `point`, `class` (None without any class) and `categories`, by name; with `n_pairs`,
    `n_points`, `n_failed`. A percentage of nothing is 0. `measures` are the other measures as (image, point), by name:
    ceiling where a match has a grid, and jitter, miss and swap under spair-dagger."""
    _, base, base_of, space, strictly = TABLE[name]
    query, judged = ("source", "target") if direction == FORTH else ("target", "source")
    base_image = judged if base_of == "judged" else base_of
    answers = {row["pair_id"]: row for row in matches if row["direction"] == direction and row["status"] == "ok"}
    shares, correct_points, points, n_failed = {}, 0, 0, 0
    counted = {}  # by measure, (how many are so, of how many) of each pair

    for pair in pairs:
        query_points, true_points = pair[f"{query}_xy_px"] or [], pair[f"{judged}_xy_px"] or []
        if not query_points:
            continue
        chosen = range(len(query_points))
        if name == "spair-geometry-aware":
            chosen = [k for k in chosen if _has_a_double(pair["keypoint_id"][k], pair)]
            if not chosen:
                continue
        category = "unknown" if pair["category"] is None else pair["category"]
        if pair["target_category"] is not None and pair["target_category"] != category:
            category = category + " -> " + pair["target_category"]
        answer = answers.get(pair["pair_id"])
        if answer is None:
            n_failed += 1
            if failed == "wrong":
                shares.setdefault(category, []).append(0.0)
                points += len(chosen)
                if name == "spair-dagger":
                    for measure in ("jitter", "miss", "swap"):
                        counted.setdefault(measure, []).append((len(chosen) if measure == "miss" else 0, len(chosen)))
            continue

        factors = {}
        for image, role in ((query, "query"), (judged, "reference")):
            if space is None:
                factors[image] = (1.0, 1.0)
            else:
                height, width = answer[f"{role}_hw"]
                if str(space).startswith("letterbox"):
                    side = int(space.split()[1])
                    factors[image] = (side / max(width, height), side / max(width, height))
                else:
                    factors[image] = (space / width, space / height)
        x_factor, y_factor = factors[base_image]

        if base.startswith("box") and pair[f"{base_image}_box_xyxy"] is not None:
            x_min, y_min, x_max, y_max = pair[f"{base_image}_box_xyxy"]
            longest = max((x_max - x_min) * x_factor, (y_max - y_min) * y_factor)
            if "5 %" in base:
                longest += 0.05 * longest + 0.05 * longest
        elif base in ("image", "box or image"):
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

        n_correct, jitter, miss, swap, reachable = 0, 0, 0, 0, 0
        for k in chosen:
            found_x = answer["reference_xy_px"][k][0] * factors[judged][0]
            found_y = answer["reference_xy_px"][k][1] * factors[judged][1]
            true_x, true_y = true_points[k][0] * factors[judged][0], true_points[k][1] * factors[judged][1]
            drift = (0, 0)
            if name == "cats":
                query_x, query_y = query_points[k][0] * factors[query][0], query_points[k][1] * factors[query][1]
                drift = (int(query_x) - query_x, int(query_y) - query_y)
                found_x += drift[0]
                found_y += drift[1]
            truths = [(true_x, true_y)]
            if name == "soco-cc":
                truths = [tuple(point) for point in pair["target_valid_xy_px"][k]]
            if answer["answer_grid_hw"] is not None:
                best = _best_of_grid(truths, answer, factors[judged], drift)
                reachable += best < alpha * longest or (best == alpha * longest and not strictly)
            if math.isnan(found_x) or math.isnan(found_y):
                miss += 1
                continue
            distance = min(math.sqrt((found_x - x) ** 2 + (found_y - y) ** 2) for x, y in truths)
            is_near = distance < alpha * longest or (distance == alpha * longest and not strictly)
            if name == "spair-dagger":
                to_others = [math.sqrt((found_x - x) ** 2 + (found_y - y) ** 2) for x, y in _without(true_points, k)]
                other = min(to_others, default=math.inf)
                jitter += alpha * longest < distance <= 2 * alpha * longest
                miss += distance > alpha * longest and other > alpha * longest
                swap += other <= alpha * longest and other < distance
                is_near = is_near and distance <= other
            if is_near:
                n_correct += 1
        shares.setdefault(category, []).append(n_correct / len(chosen))
        correct_points += n_correct
        points += len(chosen)
        if answer["answer_grid_hw"] is not None:
            counted.setdefault("ceiling", []).append((reachable, len(chosen)))
        if name == "spair-dagger":
            for measure, count in (("jitter", jitter), ("miss", miss), ("swap", swap)):
                counted.setdefault(measure, []).append((count, len(chosen)))

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
        "measures": {
            measure: (
                100 * _mean([so / of for so, of in counts]),
                100 * sum(so for so, _ in counts) / sum(of for _, of in counts),
            )
            for measure, counts in counted.items()
        },
    }


def _has_a_double(keypoint_id, pair):
    """Whether the target has another keypoint that looks like this one."""
    for group in pair["geometry_groups"]:
        if keypoint_id in group and any(
            other in pair["target_all_keypoint_id"] for other in group if other != keypoint_id
        ):
            return True
    return False


def _best_of_grid(truths, answer, factor, drift):
    """The least distance of any cell's centre, moved by `drift`, from any of the truths; by trying them all."""
    (height, width), (rows, columns) = answer["reference_hw"], answer["answer_grid_hw"]
    best = math.inf
    for i in range(rows):
        for j in range(columns):
            x = ((j + 0.5) * width / columns - 0.5) * factor[0] + drift[0]
            y = ((i + 0.5) * height / rows - 0.5) * factor[1] + drift[1]
            best = min([best, *(math.sqrt((x - true_x) ** 2 + (y - true_y) ** 2) for true_x, true_y in truths)])
    return best


def _without(points, k):
    return [point for number, point in enumerate(points) if number != k]


def _mean(values):
    return sum(values) / len(values) if values else 0.0
