//! Where trials are, by the axes: "mac_change: e1000e on every guest; the other NICs are green".

use crate::name::TrialName;
use std::collections::{BTreeMap, BTreeSet};

/// A cell: NIC, guest, backend and QEMU.
type Cell<'r> = [&'r str; 4];

const NIC: usize = 0;
const GUEST: usize = 1;
const BACKEND: usize = 2;
const QEMU: usize = 3;

/// The axes in the plural, in the order of [`Cell`].
const PLURALS: [&str; 4] = ["NICs", "guests", "backends", "QEMUs"];

/// So many cases are named one by one.
const CASES: usize = 4;
/// So many places are named one by one.
const PLACES: usize = 4;

/// All trials among which some are to be found, by row (`case@variant!fault`).
#[derive(Default)]
pub struct Universe<'r> {
    rows: BTreeMap<String, BTreeMap<Cell<'r>, bool>>,
}

impl<'r> Universe<'r> {
    /// Of these names, each with whether the trial is green.
    pub fn new(trials: impl IntoIterator<Item = (&'r TrialName, bool)>) -> Universe<'r> {
        let mut universe = Universe::default();
        for (name, green) in trials {
            let row = universe.rows.entry(name.row()).or_default();
            row.insert(cell(name), green);
        }
        universe
    }

    /// Where `names` are. An axis is "every" one only where it is whole. With `others`, it is said as well
    /// whether what is beside them is green.
    pub fn place(&self, names: &[&TrialName], others: bool) -> String {
        let mut cells_of_row: BTreeMap<String, BTreeSet<Cell>> = BTreeMap::new();
        for name in names {
            cells_of_row
                .entry(name.row())
                .or_default()
                .insert(cell(name));
        }
        // Cases that have the same cells are told of together.
        let mut alike: BTreeMap<BTreeSet<Cell>, Vec<String>> = BTreeMap::new();
        for (row, cells) in cells_of_row {
            alike.entry(cells).or_default().push(row);
        }
        let mut alike: Vec<_> = alike.into_iter().collect();
        alike.sort_by(|a, b| (b.0.len() * b.1.len(), &a.1).cmp(&(a.0.len() * a.1.len(), &b.1)));
        if alike.len() > PLACES {
            return self.counted(names);
        }
        let places = alike
            .iter()
            .map(|(cells, rows)| self.place_of(rows, cells, others));
        places.collect::<Vec<_>>().join("; ")
    }

    /// Where `cells` are, which are the same for each of `rows`.
    fn place_of(&self, rows: &[String], cells: &BTreeSet<Cell>, others: bool) -> String {
        let there: Vec<&BTreeMap<Cell, bool>> =
            rows.iter().filter_map(|row| self.rows.get(row)).collect();
        let cases = self.cases(rows, cells);
        let parts = parts(&there, cells);
        let mut text = match &parts {
            Some(parts) => {
                let texts = parts.iter().map(|part| part.text(&there));
                format!("{cases}: {}", texts.collect::<Vec<_>>().join(", and "))
            }
            None => format!("{cases}: {}", by_nic(&there, cells)),
        };
        let product = match parts.as_deref() {
            Some([one]) => Some(one),
            _ => None,
        };
        if others && let Some(rest) = rest(&there, cells, product) {
            text += &format!("; {rest}");
        }
        text
    }

    /// The rows in words.
    fn cases(&self, rows: &[String], cells: &BTreeSet<Cell>) -> String {
        let has_one = |row: &&BTreeMap<Cell, bool>| cells.iter().any(|cell| row.contains_key(cell));
        if rows.len() > 1 && self.rows.values().filter(has_one).count() == rows.len() {
            return format!("every case ({})", rows.len());
        }
        match rows.len() {
            n if n <= CASES => listed(rows),
            n => format!("{n} cases ({}, …)", rows[..CASES - 1].join(", ")),
        }
    }

    /// The last resort, where names are strewn about: the cases that are whole, and how many of each other.
    fn counted(&self, names: &[&TrialName]) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for name in names {
            *counts.entry(name.row()).or_default() += 1;
        }
        let all_of = |row: &String| self.rows.get(row).map_or(0, BTreeMap::len);
        let (whole, mut others): (Vec<_>, Vec<_>) =
            counts.into_iter().partition(|(row, n)| *n == all_of(row));
        others.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        let mut places = Vec::new();
        let whole: Vec<String> = whole.into_iter().map(|(row, _)| row).collect();
        match whole.len() {
            0 => {}
            n if n <= CASES => places.push(format!("all of {}", listed(&whole))),
            n => places.push(format!(
                "all of {n} cases ({}, …)",
                whole[..CASES - 1].join(", ")
            )),
        }
        let each = others.iter().take(PLACES);
        places.extend(each.map(|(row, n)| format!("{row} ({n} of {})", all_of(row))));
        let more = others.len().saturating_sub(PLACES);
        if more > 0 {
            places.push(crate::text::counted(more, "more case"));
        }
        listed(&places)
    }
}

fn cell(name: &TrialName) -> Cell<'_> {
    [&name.nic, &name.guest, &name.backend, name.qemu()]
}

/// Cells that are all of a product: each of these NICs with each of these guests, and so on, as far as
/// there are such trials.
struct Product<'a> {
    values: [BTreeSet<&'a str>; 4],
}

impl<'a> Product<'a> {
    fn around(cells: &BTreeSet<Cell<'a>>) -> Product<'a> {
        let values = [NIC, GUEST, BACKEND, QEMU];
        Product {
            values: values.map(|axis| cells.iter().map(|cell| cell[axis]).collect()),
        }
    }

    /// Whether it has `cell`, whatever that is on the axis `but`.
    fn has(&self, cell: &Cell, but: Option<usize>) -> bool {
        (0..4).all(|axis| Some(axis) == but || self.values[axis].contains(cell[axis]))
    }

    /// The values of an axis that occur with the product's values of the others.
    fn possible<'u>(
        &self,
        there: &[&'u BTreeMap<Cell<'u>, bool>],
        axis: usize,
    ) -> BTreeSet<&'u str> {
        let cells = there.iter().flat_map(|row| row.keys());
        let cells = cells.filter(|cell| self.has(cell, Some(axis)));
        cells.map(|cell| cell[axis]).collect()
    }

    fn text(&self, there: &[&BTreeMap<Cell, bool>]) -> String {
        let axis = |axis: usize, before: &str, every: &str, alone: bool| {
            let possible = self.possible(there, axis);
            let values = &self.values[axis];
            match possible.len() {
                n if n > 1 && n == values.len() => format!("{before}every {every}"),
                0 | 1 if !alone => String::new(),
                _ => {
                    let values: Vec<&str> = values.iter().copied().collect();
                    format!("{before}{}", listed(&values))
                }
            }
        };
        axis(NIC, "", "NIC", true)
            + &axis(GUEST, " on ", "guest", true)
            + &axis(BACKEND, " under ", "backend", false)
            + &axis(QEMU, " with QEMU ", "one", false)
                .replace("with QEMU every one", "with every QEMU")
    }
}

/// The cells as products; none where they are strewn.
fn parts<'a>(
    there: &[&BTreeMap<Cell, bool>],
    cells: &BTreeSet<Cell<'a>>,
) -> Option<Vec<Product<'a>>> {
    let product = |cells: &BTreeSet<Cell<'a>>| {
        let product = Product::around(cells);
        let is_whole = |row: &&BTreeMap<Cell, bool>| {
            let mut inside = row.keys().filter(|cell| product.has(cell, None));
            inside.all(|cell| cells.contains(cell))
        };
        there.iter().all(is_whole).then_some(product)
    };
    if let Some(one) = product(cells) {
        return Some(vec![one]);
    }
    let split = |axis: usize| -> Option<Vec<Product<'a>>> {
        let mut groups: BTreeMap<&str, BTreeSet<Cell<'a>>> = BTreeMap::new();
        for cell in cells {
            groups.entry(cell[axis]).or_default().insert(*cell);
        }
        if groups.len() > PLACES {
            return None;
        }
        groups.values().map(product).collect()
    };
    let splits = (0..4).filter_map(split);
    splits.min_by_key(Vec::len)
}

/// "e1000 (2 of 3), virtio (1 of 9)".
fn by_nic(there: &[&BTreeMap<Cell, bool>], cells: &BTreeSet<Cell>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for cell in cells {
        *counts.entry(cell[NIC]).or_default() += 1;
    }
    let all: BTreeSet<&Cell> = there.iter().flat_map(|row| row.keys()).collect();
    let each = counts.iter().map(|(nic, n)| {
        let all = all.iter().filter(|cell| cell[NIC] == *nic).count();
        format!("{nic} ({n} of {all} cells)")
    });
    each.collect::<Vec<_>>().join(", ")
}

/// What is green beside `cells`, where there is something. Along which axis it is beside, only a product says.
fn rest(
    there: &[&BTreeMap<Cell, bool>],
    cells: &BTreeSet<Cell>,
    product: Option<&Product>,
) -> Option<String> {
    let beside = |along: Option<usize>| -> Option<bool> {
        let all = there.iter().flat_map(|row| row.iter());
        let beside = all.filter(|(cell, _)| !cells.contains(*cell));
        let mut beside = beside.filter(|(cell, _)| match (along, product) {
            (Some(axis), Some(product)) => product.has(cell, Some(axis)),
            _ => true,
        });
        let (_, first) = beside.next()?;
        Some(*first && beside.all(|(_, green)| *green))
    };
    let axes = if product.is_some() { 0..4 } else { 0..0 };
    let green: Vec<&str> = axes
        .filter(|axis| beside(Some(*axis)) == Some(true))
        .map(|axis| PLURALS[axis])
        .collect();
    match green.as_slice() {
        [] if beside(None) == Some(true) => Some("everything beside is green".into()),
        [] => None,
        axes => Some(format!("the other {} are green", listed(axes))),
    }
}

/// "a", "a and b", "a, b and c".
pub fn listed<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<TrialName> {
        let mut names = Vec::new();
        for case in ["driver", "mac_change"] {
            for nic in ["e1000", "e1000e", "virtio"] {
                for guest in ["rhel6", "rhel9"] {
                    for backend in ["tap", "vhost", "vhost_zcopy"] {
                        if nic == "virtio" || backend == "tap" {
                            names.push(format!("{case}::{nic}::{guest}::{backend}"));
                        }
                    }
                }
            }
        }
        names
            .iter()
            .filter_map(|name| TrialName::parse(name))
            .collect()
    }

    fn place(red: impl Fn(&str) -> bool) -> String {
        let names = names();
        let is_red = |name: &&TrialName| red(&name.to_string());
        let universe = Universe::new(names.iter().map(|name| (name, !is_red(&name))));
        universe.place(&names.iter().filter(is_red).collect::<Vec<_>>(), true)
    }

    #[test]
    fn an_axis_is_every_one_only_where_it_is_whole() {
        for (red, text) in [
            (
                &["mac_change::e1000e"][..],
                "mac_change: e1000e on every guest; the other NICs are green",
            ),
            (
                &["mac_change::e1000e::rhel6"],
                "mac_change: e1000e on rhel6; the other NICs and guests are green",
            ),
            (
                &["::e1000e::"],
                "every case (2): e1000e on every guest; the other NICs are green",
            ),
            (
                &["mac_change::"],
                "mac_change: every NIC on every guest under every backend",
            ),
            (
                &["::virtio::rhel6::vhost", "::virtio::rhel9::vhost"],
                "every case (2): virtio on every guest under vhost and vhost_zcopy; the other backends are green",
            ),
            (
                &["mac_change::e1000e", "mac_change::virtio::rhel9::tap"],
                "mac_change: e1000e on every guest, and virtio on rhel9 under tap; everything beside is green",
            ),
            (
                &["mac_change::e1000e", "driver::virtio"],
                "driver: virtio on every guest under every backend; the other NICs are green; \
                 mac_change: e1000e on every guest; the other NICs are green",
            ),
            (
                &[""],
                "every case (2): every NIC on every guest under every backend",
            ),
        ] {
            let found = place(|name| red.iter().any(|part| name.contains(part)));
            assert_eq!(found, text, "{red:?}");
        }
    }

    #[test]
    fn others_that_are_red_too_are_not_called_green() {
        let names = names();
        let universe = Universe::new(names.iter().map(|name| (name, name.nic == "virtio")));
        let some: Vec<_> = (names.iter())
            .filter(|n| n.row() == "driver" && n.nic == "e1000")
            .collect();
        assert_eq!(universe.place(&some, true), "driver: e1000 on every guest");
    }

    #[test]
    fn what_is_strewn_is_counted() {
        let strewn = [
            "driver::virtio::rhel6::tap",
            "driver::virtio::rhel9::vhost",
            "driver::virtio::rhel9::vhost_zcopy",
            "driver::e1000::rhel9",
        ];
        let found = place(|name| strewn.iter().any(|part| name.starts_with(part)));
        assert_eq!(
            found,
            "driver: e1000 (1 of 2 cells), virtio (3 of 6 cells); everything beside is green"
        );
    }

    #[test]
    fn of_many_cases_the_whole_ones_are_told_apart() {
        let mut names = Vec::new();
        for case in ["a", "b", "c", "d", "e", "f", "g"] {
            for nic in ["e1000", "virtio"] {
                for guest in ["rhel6", "rhel9"] {
                    names.push(TrialName::parse(&format!("{case}::{nic}::{guest}::tap")).unwrap());
                }
            }
        }
        let universe = Universe::new(names.iter().map(|name| (name, false)));
        let place = |red: &dyn Fn(&str) -> bool| {
            let some: Vec<_> = (names.iter()).filter(|n| red(&n.to_string())).collect();
            universe.place(&some, false)
        };
        let strewn = |name: &str| match &name[..1] {
            "a" | "b" => true,
            "c" => name.contains("virtio"),
            "d" => name.contains("rhel9"),
            "e" => name.contains("e1000"),
            "f" => name.contains("rhel6"),
            _ => false,
        };
        assert_eq!(
            place(&strewn),
            "all of a and b, c (2 of 4), d (2 of 4), e (2 of 4) and f (2 of 4)"
        );
    }
}
