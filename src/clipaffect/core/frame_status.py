"""The possible statuses of a frame; every row of every table has one of them.

docs/outcomes.md explains them to users and is generated from here; a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum

KEYS = ["video", "person", "frame"]  # the columns that name a row of every table


class FrameStatus(StrEnum):
    """Status of a frame (and of the person in it)."""

    OK = "ok"
    NO_FACE = "no_face"
    PERSON_ABSENT = "person_absent"
    FACE_SMALL = "face_small"
    FACE_BLURRED = "face_blurred"
    FACE_TURNED = "face_turned"
    FACE_CUT_OFF = "face_cut_off"
    NOT_SAMPLED = "not_sampled"
    FRAME_UNREADABLE = "frame_unreadable"
    BEYOND_VIDEO = "beyond_video"
    NO_IMAGE = "no_image"
    IMAGE_UNREADABLE = "image_unreadable"
    VIDEO_MISSING = "video_missing"
    VIDEO_EMPTY = "video_empty"
    VIDEO_UNREADABLE = "video_unreadable"
    NO_VIDEO_STREAM = "no_video_stream"
    NO_FEATURE = "no_feature"
    VIDEO_CHANGED = "video_changed"
    NO_PERMISSION = "no_permission"
    BROKEN_LINK = "broken_link"
    NOT_FETCHED = "not_fetched"
    NOT_MEDIA = "not_media"
    FAILED = "failed"


MEANING: dict[FrameStatus, str] = {
    FrameStatus.OK: "a face was found and cropped, or was given as an image or a feature",
    FrameStatus.NO_FACE: "the frame was decoded and no face was found in it",
    FrameStatus.PERSON_ABSENT: "faces were found, but none of them is this person",
    FrameStatus.FACE_SMALL: "the face is smaller than `faces.quality.eye_distance` requires",
    FrameStatus.FACE_BLURRED: "the face is less sharp than `faces.quality.sharpness` requires",
    FrameStatus.FACE_TURNED: "the face is turned beyond `faces.quality.yaw` or `pitch`",
    FrameStatus.FACE_CUT_OFF: "less of the face is visible than `faces.quality.visible` requires",
    FrameStatus.NOT_SAMPLED: "skipped by `faces.stride` or `faces.rate`",
    FrameStatus.FRAME_UNREADABLE: "the frame is damaged or missing: the decoder gave no picture",
    FrameStatus.BEYOND_VIDEO: "an annotation row beyond the video's last frame, or the last crop",
    FrameStatus.NO_IMAGE: "the folder of crops has later frames, but no image of this one",
    FrameStatus.IMAGE_UNREADABLE: "the image is empty, damaged or larger than 150 million pixels",
    FrameStatus.VIDEO_MISSING: "annotated, but no video, image or crop folder has this name",
    FrameStatus.VIDEO_EMPTY: "the video file has no bytes, or the folder of crops no image",
    FrameStatus.VIDEO_UNREADABLE: "the file is not a video that FFmpeg can open",
    FrameStatus.NO_VIDEO_STREAM: "the file has no video stream (an audio file, for instance)",
    FrameStatus.NO_FEATURE: "the imported features have no row for this frame",
    FrameStatus.VIDEO_CHANGED: "prediction: the file changed while it was being read",
    FrameStatus.NO_PERMISSION: "prediction: this user may not read the file",
    FrameStatus.BROKEN_LINK: "prediction: the link's target is missing, or contains the link",
    FrameStatus.NOT_FETCHED: "prediction: a Git LFS or DVC pointer; run git lfs pull or dvc pull",
    FrameStatus.NOT_MEDIA: "neither a video nor an image; not predicted",
    FrameStatus.FAILED: "prediction: an internal error; the summary names its log",
}

# Statuses of a whole file: it has one row, frame 0, instead of a row for each frame.
VIDEO_STATUSES = frozenset(
    {
        FrameStatus.VIDEO_MISSING,
        FrameStatus.VIDEO_EMPTY,
        FrameStatus.VIDEO_UNREADABLE,
        FrameStatus.NO_VIDEO_STREAM,
    }
)
