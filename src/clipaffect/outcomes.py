"""What can become of a frame. Every row of every table carries one of these.

docs/outcomes.md explains them to users and is generated from here; a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
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
    BAD_NAME = "bad_name"
    NOT_MEDIA = "not_media"
    FAILED = "failed"


MEANING: dict[Outcome, str] = {
    Outcome.OK: "there is a face: found and cut out, given as an image, or as an imported feature",
    Outcome.NO_FACE: "the frame was decoded and no face was found in it",
    Outcome.PERSON_ABSENT: "faces were found, but none belongs to this person of the video",
    Outcome.FACE_SMALL: "the face is smaller than `faces.quality.eye_distance` asks for",
    Outcome.FACE_BLURRED: "the face is less sharp than `faces.quality.sharpness` asks for",
    Outcome.FACE_TURNED: "the face is turned further than `faces.quality.yaw` or `pitch` allows",
    Outcome.FACE_CUT_OFF: "less of the face is in the picture than `faces.quality.visible` asks",
    Outcome.NOT_SAMPLED: "left out by `faces.stride` or `faces.rate`",
    Outcome.FRAME_UNREADABLE: "the decoder failed at this frame (damaged or truncated file)",
    Outcome.BEYOND_VIDEO: "an annotation row beyond the video's last frame, or the last crop",
    Outcome.NO_IMAGE: "the folder of crops has later frames, but no image of this one",
    Outcome.IMAGE_UNREADABLE: "the image of this frame is empty or damaged, or has more than 150 "
    "million pixels",
    Outcome.VIDEO_MISSING: "annotated, but no video, image or folder of crops has this name",
    Outcome.VIDEO_EMPTY: "the video file has no bytes, or the folder of crops no image",
    Outcome.VIDEO_UNREADABLE: "the file is not a video that FFmpeg can open",
    Outcome.NO_VIDEO_STREAM: "the file holds no video stream (an audio file, for instance)",
    Outcome.NO_FEATURE: "the imported features have no row for this frame",
    Outcome.VIDEO_CHANGED: "prediction: the file changed while it was read; is it being written?",
    Outcome.NO_PERMISSION: "prediction: this user may not read the file",
    Outcome.BAD_NAME: "prediction: the file's name is not UTF-8 or has control characters",
    Outcome.NOT_MEDIA: "prediction: neither a video nor an image by its name; it was left alone",
    Outcome.FAILED: "prediction: an error of the program; its log is named in the summary",
}

# Outcomes of a whole file: it has one row, frame 0, instead of a row for each frame.
VIDEO_OUTCOMES = frozenset(
    {
        Outcome.VIDEO_MISSING,
        Outcome.VIDEO_EMPTY,
        Outcome.VIDEO_UNREADABLE,
        Outcome.NO_VIDEO_STREAM,
    }
)
