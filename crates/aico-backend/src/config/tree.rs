//! YAML as a small tree with lines. What could hide something is refused: anchors, aliases, tags, keys that stand twice,
//! several documents, depth.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::ConfigError;
use super::keys::MAX_FILE_BYTES;

const MAX_DEPTH: usize = 8;
const MAX_NODES: usize = 4096;

/// A node and where it stands.
#[derive(Debug)]
pub(super) enum Node {
    Empty { at: Place },
    Scalar { text: String, quoted: bool, at: Place },
    List { items: Vec<Node>, at: Place },
    Map { entries: Vec<Entry>, at: Place },
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Node,
    at: Place,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn of(span: &Span) -> Self {
        Self { line: span.start.line(), column: span.start.col() + 1 }
    }

    fn error(self, message: impl Into<String>, hint: Option<String>) -> ConfigError {
        ConfigError { line: self.line, column: self.column, message: message.into(), hint }
    }
}

impl Node {
    pub(super) fn error(&self, message: impl Into<String>, hint: Option<String>) -> ConfigError {
        let (Self::Empty { at } | Self::Scalar { at, .. } | Self::List { at, .. } | Self::Map { at, .. }) = self;
        at.error(message, hint)
    }
}

impl Entry {
    pub(super) fn error(&self, message: impl Into<String>, hint: Option<String>) -> ConfigError {
        self.at.error(message, hint)
    }
}

/// The tree of a text; none where there is nothing but comments.
pub(super) fn parse(text: &str) -> Result<Option<Node>, ConfigError> {
    let start = Place { line: 1, column: 1 };
    if text.len() > MAX_FILE_BYTES {
        return Err(start.error("the file has more than 64 KiB", None));
    }
    if text.contains('\0') {
        return Err(start.error("the file has a zero byte: it is not text", None));
    }
    let mut reader = Reader { events: Parser::new_from_str(text), nodes: 0 };
    let mut root = None;
    loop {
        let (event, at) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(root),
            Event::DocumentStart(_) if root.is_some() => {
                return Err(at.error("the file has more than one document", None));
            }
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            event => match reader.node(event, at, 0)? {
                Node::Empty { .. } => {}
                node => root = Some(node),
            },
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Place), ConfigError> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, Place::of(&span))),
            Some(Err(error)) => {
                let mark = error.marker();
                let at = Place { line: mark.line(), column: mark.col() + 1 };
                Err(at.error(format!("this is not YAML: {}", error.info()), None))
            }
            None => Ok((Event::StreamEnd, Place { line: 1, column: 1 })),
        }
    }

    fn node(&mut self, event: Event<'a>, at: Place, depth: usize) -> Result<Node, ConfigError> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(at.error("the file is nested too deep, or has too many entries", None));
        }
        let plain = |anchor: usize, tagged: bool| {
            let refused = anchor != 0 || tagged;
            if refused { Err(at.error("anchors and tags are not allowed here", None)) } else { Ok(()) }
        };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                plain(anchor, tag.is_some())?;
                let quoted = style != ScalarStyle::Plain;
                if !quoted && matches!(text.as_ref(), "" | "~" | "null") {
                    return Ok(Node::Empty { at });
                }
                if text.chars().any(char::is_control) {
                    return Err(at.error("a value has a control character", None));
                }
                Ok(Node::Scalar { text: text.into_owned(), quoted, at })
            }
            Event::SequenceStart(anchor, tag) => {
                plain(anchor, tag.is_some())?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Node::List { items, at }),
                        (event, at) => items.push(self.node(event, at, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(anchor, tag) => {
                plain(anchor, tag.is_some())?;
                self.map(at, depth)
            }
            Event::Alias(_) => Err(at.error("aliases are not allowed here", None)),
            _ => Err(at.error("this is not a value", None)),
        }
    }

    fn map(&mut self, at: Place, depth: usize) -> Result<Node, ConfigError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, key_at) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Node::Map { entries, at });
            }
            let Node::Scalar { text: key, .. } = self.node(event, key_at, depth + 1)? else {
                return Err(key_at.error("a key is a word", None));
            };
            if entries.iter().any(|entry| entry.key == key) {
                return Err(key_at.error(format!("`{key}` stands here twice"), None));
            }
            let (event, value_at) = self.next()?;
            let value = self.node(event, value_at, depth + 1)?;
            entries.push(Entry { key, value, at: key_at });
        }
    }
}
