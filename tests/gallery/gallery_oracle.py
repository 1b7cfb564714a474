"""Search as it is meant, in loops over float64."""

import numpy as np


class Oracle:
    """Images in order of enrolment; people in the order of the first of them."""

    def __init__(self, score: str = 'best') -> None:
        self.score = score
        self.images: list[tuple[str, str, np.ndarray]] = []
        self.people: list[str] = []

    def enrol(self, person: str, embeddings: np.ndarray, images: list[str]) -> None:
        if person not in self.people:
            self.people.append(person)
        for row, image in zip(embeddings, images, strict=True):
            unit = np.asarray(row, np.float64) / np.linalg.norm(row.astype(np.float64))
            self.images.append((person, image, unit.astype(np.float32)))

    def remove(self, person: str, image: str | None = None) -> int:
        before = len(self.images)
        self.images = [
            item
            for item in self.images
            if item[0] != person or image not in (None, item[1])
        ]
        self.people = [x for x in self.people if any(x == y[0] for y in self.images)]
        return before - len(self.images)

    def search(
        self, queries: np.ndarray, top_k: int, threshold: float = -np.inf
    ) -> list[list[tuple[str, float, str]]]:
        matches = []
        for query in queries.astype(np.float64):
            query = query / np.linalg.norm(query)
            scored = [self._match(query, person) for person in self.people]
            # Stable: equal ones stay in the order of enrolment.
            scored.sort(key=lambda match: -match[1])
            matches.append([x for x in scored if x[1] >= threshold][:top_k])
        return matches

    def _match(self, query: np.ndarray, person: str) -> tuple[str, float, str]:
        rows = [x[2].astype(np.float64) for x in self.images if x[0] == person]
        names = [x[1] for x in self.images if x[0] == person]
        scores = [cosine(query, row) for row in rows]
        best = int(np.argmax(scores))
        if self.score == 'mean':
            mean = sum(row / np.linalg.norm(row) for row in rows)
            return person, cosine(query, mean), names[best]
        return person, scores[best], names[best]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    # np.sum, and not a product of BLAS, whose result depends on the place in memory.
    return float(np.sum(a * b) / np.sqrt(np.sum(b * b)))
