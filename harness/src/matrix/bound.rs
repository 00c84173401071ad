//! Bounds on versions, `">=8,<9.2"`.
//!
//! They are compared by numbers alone, and by as many as the bound has: `<9.2` holds for 9.1.50 and not for
//! 9.2.0-rc1, `<=7` holds for 7.2.22. semver's requirements read alike, but refuse the releases of kernels
//! (`5.14.0-503.11.1.el9`), and treat what follows a dash as older than what precedes it.

use std::fmt;

/// What a version must satisfy: all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    relation: Relation,
    numbers: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Less,
    AtMost,
    Equal,
    AtLeast,
    Greater,
}

/// By their signs; one that begins another stands after it.
const RELATIONS: [(&str, Relation); 5] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("<", Relation::Less),
    (">", Relation::Greater),
    ("=", Relation::Equal),
];

/// What a bound looks like.
const EXAMPLE: &str = "such as \"<10\" or \">=8,<9.2\"";

impl Bound {
    /// Reads a bound.
    ///
    /// # Errors
    /// What is wrong, and what is expected in its place.
    pub fn parse(text: &str) -> Result<Bound, String> {
        let parts = text.split(',').map(|part| Part::parse(part.trim()));
        let bound = Bound {
            text: text.to_owned(),
            parts: parts.collect::<Result<_, _>>()?,
        };
        match bound.is_possible() {
            true => Ok(bound),
            false => Err("no version satisfies all parts of it".into()),
        }
    }

    /// Whether `version` satisfies it. One that does not begin with a number satisfies none.
    pub fn holds(&self, version: &str) -> bool {
        let numbers = numbers(version);
        !numbers.is_empty() && self.parts.iter().all(|part| part.holds(&numbers))
    }

    /// What satisfies all parts reaches down to 0, or to where one of the parts begins.
    fn is_possible(&self) -> bool {
        let begins = self.parts.iter().flat_map(|part| {
            let mut next = part.numbers.clone();
            if let Some(last) = next.last_mut() {
                *last = last.saturating_add(1);
            }
            [part.numbers.clone(), next]
        });
        let mut candidates = begins.chain([vec![0]]);
        candidates.any(|numbers| self.parts.iter().all(|part| part.holds(&numbers)))
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Part {
    fn parse(text: &str) -> Result<Part, String> {
        let relation = RELATIONS
            .iter()
            .find_map(|(sign, relation)| Some((*relation, text.strip_prefix(sign)?)));
        let Some((relation, version)) = relation else {
            let signs = RELATIONS.map(|(sign, _)| sign).join(" ");
            return Err(format!(
                "`{text}` begins with none of {signs}; expected a bound {EXAMPLE}"
            ));
        };
        let version = version.trim();
        // A kernel's release may have a dash in it, `<5.14.0-503`.
        let read: Option<Vec<u64>> = version
            .split(['.', '-'])
            .map(|number| number.parse().ok())
            .collect();
        match read {
            Some(numbers) => Ok(Part { relation, numbers }),
            None => Err(format!(
                "`{version}` is no version; expected numbers with dots between them, in a bound {EXAMPLE}"
            )),
        }
    }

    fn holds(&self, version: &[u64]) -> bool {
        let as_many = (0..self.numbers.len()).map(|index| version.get(index).copied().unwrap_or(0));
        let ordering = as_many.cmp(self.numbers.iter().copied());
        match self.relation {
            Relation::Less => ordering.is_lt(),
            Relation::AtMost => ordering.is_le(),
            Relation::Equal => ordering.is_eq(),
            Relation::AtLeast => ordering.is_ge(),
            Relation::Greater => ordering.is_gt(),
        }
    }
}

/// The numbers that `version` begins with: 6, 1, 0, 56 of `6.1.0-56-amd64`.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(['.', '-']);
    parts.map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_by_as_many_numbers_as_the_bound_has() {
        for (bound, version, holds) in [
            ("<10", "10.0.13", false),
            ("<10", "9.2.99", true),
            ("<9.2", "9.1.50", true),
            ("<9.2", "9.2.0-rc1", false),
            ("<9.2", "9", true),
            ("<=7", "7.2.22", true),
            (">7", "7.2.22", false),
            (">7", "8.0.0", true),
            ("=7.2", "7.2.22", true),
            ("=7.2", "7.20.0", false),
            (">=8,<9.2", "8.0.0", true),
            (">=8, <9.2", "7.2.22", false),
            (">=8,<9.2", "9.2.1", false),
            (">=9.2.3", "9.2", false),
            ("<6.12", "6.1.0-56-amd64", true),
            ("<6.12", "6.12.118+deb13-amd64", false),
            (">=6.12", "6.12.118+deb13-amd64", true),
            ("<5.14.0-503", "5.14.0-427.13.1.el9_4.x86_64", true),
            ("<5.14.0-503", "5.14.0-503.11.1.el9_5.x86_64", false),
            ("<10", "unknown", false),
        ] {
            let read = Bound::parse(bound).unwrap();
            assert_eq!(read.holds(version), holds, "{version} {bound}");
        }
    }

    #[test]
    fn what_is_no_bound_is_said() {
        let said: Vec<String> = [
            "", "10", "~10", "<", "<ten", "<10,", ">=9,<8", ">7,<8", "<0",
        ]
        .iter()
        .map(|text| Bound::parse(text).unwrap_err())
        .collect();
        insta::assert_snapshot!(said.join("\n"), @r#"
        `` begins with none of <= >= < > =; expected a bound such as "<10" or ">=8,<9.2"
        `10` begins with none of <= >= < > =; expected a bound such as "<10" or ">=8,<9.2"
        `~10` begins with none of <= >= < > =; expected a bound such as "<10" or ">=8,<9.2"
        `` is no version; expected numbers with dots between them, in a bound such as "<10" or ">=8,<9.2"
        `ten` is no version; expected numbers with dots between them, in a bound such as "<10" or ">=8,<9.2"
        `` begins with none of <= >= < > =; expected a bound such as "<10" or ">=8,<9.2"
        no version satisfies all parts of it
        no version satisfies all parts of it
        no version satisfies all parts of it
        "#);
        for possible in ["<9.2", ">7.1,<8", ">=8,<9.2", "=7.2,<7.2.30", ">5"] {
            Bound::parse(possible).unwrap();
        }
    }
}
