//! Images (and sounds) that come as base64 in a message, and leave as `data:` URLs (ollama-api §6.11).

use serde::{Serialize, Serializer};

/// One part of a message with more than text in it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part<'a> {
    /// Text.
    Text {
        /// The text.
        text: &'a str,
    },
    /// An image.
    ImageUrl {
        /// Where it is: in the URL itself.
        image_url: ImageUrl<'a>,
    },
    /// A sound.
    InputAudio {
        /// The sound.
        input_audio: Audio<'a>,
    },
}

/// An image in the engine's wrapping.
#[derive(Clone, Debug, Serialize)]
pub struct ImageUrl<'a> {
    url: DataUrl<'a>,
}

/// A sound in the engine's wrapping.
#[derive(Clone, Debug, Serialize)]
pub struct Audio<'a> {
    data: Base64<'a>,
    format: &'a str,
}

/// Base64 with a media type; written as a `data:` URL without making a copy first.
#[derive(Clone, Debug)]
struct DataUrl<'a> {
    media_type: &'a str,
    base64: Base64<'a>,
}

impl Serialize for DataUrl<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("data:{};base64,{}", self.media_type, self.base64))
    }
}

/// Base64 whose line breaks do not count.
#[derive(Clone, Debug)]
struct Base64<'a>(&'a str);

impl std::fmt::Display for Base64<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.split(['\r', '\n']).try_for_each(|line| formatter.write_str(line))
    }
}

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'a> Part<'a> {
    /// Its text, if it is text.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text { text } => Some(text),
            _ => None,
        }
    }

    /// Wraps what a client sent in `images`, by what its first bytes say it is; where they say nothing, by what a
    /// `data:` URL calls it, else as JPEG. (Ollama refuses such URLs here; taking them costs nothing.)
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let url = text.strip_prefix("data:").and_then(|rest| rest.split_once(','));
        let (told, base64) =
            url.map_or(("", text), |(told, base64)| (told.split(';').next().unwrap_or_default(), base64));
        let head = first_bytes(base64);
        let base64 = Base64(base64);
        let sound = |format| Self::InputAudio { input_audio: Audio { data: base64.clone(), format } };
        let media_type = match &head {
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            [b'G', b'I', b'F', b'8', ..] => "image/gif",
            [b'B', b'M', ..] => "image/bmp",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => "image/webp",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E'] => return sound("wav"),
            [b'I', b'D', b'3', ..] | [0xff, 0xe2 | 0xe3 | 0xf2 | 0xf3 | 0xfa | 0xfb, ..] => return sound("mp3"),
            _ => match told.split_once('/') {
                Some(("image", _)) => told,
                Some(("audio", format)) => return sound(format),
                _ => "image/jpeg",
            },
        };
        Self::ImageUrl { image_url: ImageUrl { url: DataUrl { media_type, base64 } } }
    }
}

/// The first twelve bytes; zeros where the text ends or is no base64.
fn first_bytes(base64: &str) -> [u8; 12] {
    let mut bytes = [0; 12];
    let (mut bits, mut count, mut place) = (0_u32, 0, 0);
    for character in base64.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let six = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes[place] = (bits >> count & 0xff) as u8;
            place += 1;
            if place == bytes.len() {
                break;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_become_data_urls_of_their_own_type() {
        for (base64, start) in [
            ("iVBORw0KGgoAAAANSUhEUg==", r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0K"#),
            ("/9j/4AAQSkZJRgABAQ==", r#"{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,/9j/"#),
            ("UklGRiQAAABXRUJQVlA4", r#"{"type":"image_url","image_url":{"url":"data:image/webp;base64,UklG"#),
            (
                "UklGRiQAAABXQVZFZm10",
                r#"{"type":"input_audio","input_audio":{"data":"UklGRiQAAABXQVZFZm10","format":"wav"}"#,
            ),
            ("R0lGODlhAQABAA==", r#"{"type":"image_url","image_url":{"url":"data:image/gif;base64,R0lG"#),
            ("data:image/png;base64,iVBO", r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBO""#),
            (
                "data:image/x;base64,iVBORw0K",
                r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0K""#,
            ),
            ("data:image/avif;base64,AAAA", r#"{"type":"image_url","image_url":{"url":"data:image/avif;base64,AAAA""#),
            ("data:audio/flac;base64,AAAA", r#"{"type":"input_audio","input_audio":{"data":"AAAA","format":"flac"}"#),
            ("SUQzBAAAAAAA", r#"{"type":"input_audio","input_audio":{"data":"SUQzBAAAAAAA","format":"mp3"}"#),
            ("//uQxAAAAAAA", r#"{"type":"input_audio","input_audio":{"data":"//uQxAAAAAAA","format":"mp3"}"#),
            ("data:", r#"{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,data:"#),
            ("!!", r#"{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,!!"#),
            ("", r#"{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,"#),
        ] {
            let json = serde_json::to_string(&Part::of(base64)).expect("parts are JSON");
            assert!(json.starts_with(start), "{json}");
        }
    }

    #[test]
    fn line_breaks_in_base64_do_not_count() {
        let json = serde_json::to_string(&Part::of("iVBO\r\nRw0K\n")).expect("parts are JSON");
        assert!(json.contains("base64,iVBORw0K\""), "{json}");
    }
}
