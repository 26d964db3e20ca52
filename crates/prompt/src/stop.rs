//! Stop strings in a text that arrives in pieces.

/// Watches a growing text for stop strings.
///
/// Text that could be the beginning of a stop string is held back until it is clear that it is not. The stop string
/// that is *complete* first ends the text, and of several that are complete at the same place the longest; so the
/// result is the same however the text was cut into pieces.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

impl StopStrings {
    /// Watches for each of `stops`; empty strings are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), hit: None }
    }

    /// Takes the next piece and returns the text that is certainly before any stop string. After a hit: nothing.
    pub fn push(&mut self, piece: &str) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        let seen = self.held.len();
        self.held.push_str(piece);
        let ends = self.held[seen..].char_indices().map(|(at, character)| seen + at + character.len_utf8());
        for end in ends {
            if let Some((index, stop)) = self.longest_stop_at(end) {
                self.hit = Some(index);
                let text = self.held[..end - stop].to_owned();
                self.held.clear();
                return text;
            }
        }
        let tail = self.held.split_off(self.held.len() - self.longest_beginning());
        std::mem::replace(&mut self.held, tail)
    }

    /// Ends the text: returns what was held back. After a hit: nothing.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string that ended the text.
    pub fn hit(&self) -> Option<&str> {
        self.hit.map(|index| self.stops[index].as_str())
    }

    /// The longest stop string that ends at byte `end` of the held text: its index and its length in bytes.
    fn longest_stop_at(&self, end: usize) -> Option<(usize, usize)> {
        let ends_here = |stop: &&(usize, &String)| !stop.1.is_empty() && self.held[..end].ends_with(stop.1.as_str());
        let longest = self.stops.iter().enumerate().filter(|stop| ends_here(&stop)).max_by_key(|(_, stop)| stop.len());
        longest.map(|(index, stop)| (index, stop.len()))
    }

    /// The length in bytes of the longest end of the held text with which a stop string begins.
    fn longest_beginning(&self) -> usize {
        let starts = self.held.char_indices().map(|(at, _)| at);
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        starts.into_iter().find(begins).map_or(0, |at| self.held.len() - at)
    }
}
