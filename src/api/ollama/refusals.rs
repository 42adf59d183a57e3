//! What an engine says of requests that are the client's mistake, and how that is told (vllm-engine §3.4). Found by the
//! real one: tests/real/kinds.

/// How a refusal of the engine is known, and what a client is told.
#[derive(Debug)]
pub(super) struct Refusal {
    /// A part of the engine's words.
    engine: &'static str,
    /// What happened, why, and what to do.
    told: &'static str,
    /// Whether vLLM calls it an error of its own, with a 500 or 501.
    blames_itself: bool,
}

const fn refused(engine: &'static str, told: &'static str) -> Refusal {
    Refusal { engine, told, blames_itself: false }
}

const fn blamed(engine: &'static str, told: &'static str) -> Refusal {
    Refusal { engine, told, blames_itself: true }
}

const NO_SENSES: &str = "this model does not support images or sounds like these: it does not read them; send text only, \
    or use a model with the capability vision or audio";

const NO_TOOL_PARSER: &str = "this model does not support tools: its engine runs without a parser for tool calls; leave \
    `tools` out, or use a model with the capability tools";

const NO_BASE64: &str = "an image or a sound is not valid base64: it is cut off, or holds characters that are none of \
    base64's; send the whole file, encoded";

const NO_IMAGE: &str = "an image cannot be read: it is damaged or cut off, or of another kind than PNG, JPEG, WebP, GIF, \
    BMP and TIFF; send the whole file";

const NO_SOUND: &str = "a sound cannot be read: it is damaged or cut off, or of a kind that is not known; send the whole \
    file, as WAV, FLAC, MP3, OGG or M4A";

const TOO_MANY_POINTS: &str = "an image is too large: it has more than 178 million pixels; scale it down";

const ODD_SHAPE: &str = "the model cannot take an image or a sound of this size or shape; send it larger, smaller or \
    less narrow";

/// The first that fits counts.
const REFUSALS: &[Refusal] = &[
    refused("is not a multimodal model", NO_SENSES),
    refused("unsupported multimodal content", NO_SENSES),
    refused("At most 0 ", NO_SENSES),
    refused("\"auto\" tool choice requires", NO_TOOL_PARSER),
    // vLLM's Rust frontend.
    blamed("tool parsing is disabled", NO_TOOL_PARSER),
    refused(
        "default chat template is no longer allowed",
        "this model has no chat template and only continues text; send the text to /api/generate with `raw`",
    ),
    blamed("decompression bomb", TOO_MANY_POINTS),
    refused("VLLM_MAX_IMAGE_PIXELS", TOO_MANY_POINTS),
    refused("Failed to load image", NO_IMAGE),
    refused("Non-base64 digit found", NO_BASE64),
    refused("Incorrect padding", NO_BASE64),
    refused("Failed to apply ", ODD_SHAPE),
    refused("Invalid or unsupported audio file", NO_SOUND),
    refused("Only base64 data URLs are supported", NO_BASE64),
];

/// What to tell of `text`, which the engine said against a request; `None` where its own words are the best. With
/// `is_fault` it has called the matter a fault of its own, which is believed unless it is known to be none.
pub(super) fn told(text: &str, is_fault: bool) -> Option<&'static str> {
    let fits = |row: &&Refusal| (row.blames_itself || !is_fault) && text.contains(row.engine);
    REFUSALS.iter().find(fits).map(|row| row.told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_blames_itself_is_believed_but_for_what_is_known() {
        let bomb =
            "Image size (400000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.";
        assert_eq!((told(bomb, true), told(bomb, false)), (Some(TOO_MANY_POINTS), Some(TOO_MANY_POINTS)));
        let broken = "Failed to load image: cannot identify image file <_io.BytesIO object>";
        assert_eq!((told(broken, true), told(broken, false)), (None, Some(NO_IMAGE)));
        assert_eq!(told("a schema that is none", false), None);
        let tools = "failed to submit chat request: tool parsing is disabled by frontend configuration";
        assert_eq!(told(tools, true), Some(NO_TOOL_PARSER));
        for blind in ["m is not a multimodal model", "At most 0 audio(s) may be provided in one prompt."] {
            assert_eq!((told(blind, true), told(blind, false)), (None, Some(NO_SENSES)));
        }
    }
}
