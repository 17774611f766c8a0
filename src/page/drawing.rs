//! Drawings: a disk to scale, and a boot's timeline, as SVG that a screen reader can skip.

use super::html::Html;
use crate::layout::format_size;

/// Width of a drawing, in its own units.
const WIDTH: f64 = 1000.0;

/// Narrower parts are drawn so wide, and the rest shares what is left.
const NARROWEST: f64 = 7.0;

/// What a part of a disk is, which gives its colour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PartKind {
    /// Partition table, loader, payload.
    Boot,
    /// A filesystem.
    Data,
    /// Swap.
    Swap,
    /// Nothing.
    Gap,
}

impl PartKind {
    fn class(self) -> &'static str {
        match self {
            PartKind::Boot => "boot",
            PartKind::Data => "data",
            PartKind::Swap => "swap",
            PartKind::Gap => "gap",
        }
    }
}

/// A part of a disk.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is called.
    pub name: String,
    /// Where its bytes come from.
    pub origin: String,
}

/// The widths of parts with these lengths: to scale, but none narrower than [`NARROWEST`] as long as
/// there is room.
fn widths(lengths: &[u64]) -> Vec<f64> {
    let total: f64 = lengths.iter().map(|l| *l as f64).sum();
    let narrowest = NARROWEST.min(WIDTH / lengths.len().max(1) as f64);
    let ideal = |len: &u64| if total > 0.0 { WIDTH * *len as f64 / total } else { 0.0 };
    let narrow = lengths.iter().filter(|l| ideal(l) < narrowest).count() as f64;
    let wide: f64 = lengths.iter().map(ideal).filter(|w| *w >= narrowest).sum();
    let scale = if wide > 0.0 { (WIDTH - narrow * narrowest) / wide } else { 1.0 };
    lengths
        .iter()
        .map(|len| if ideal(len) < narrowest { narrowest } else { ideal(len) * scale })
        .collect()
}

pub(super) fn disk(out: &mut Html, name: &str, len: u64, length: &str, parts: &[Part]) {
    out.raw("<h3>Disk <span class=\"name\">").text(name).raw(", ").text(length);
    out.raw("</span></h3>\n<figure>\n");
    out.raw("<svg class=\"disk\" viewBox=\"0 0 1000 60\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    let lengths: Vec<u64> = parts.iter().map(|p| p.len).collect();
    let mut x = 0.0;
    for (part, width) in parts.iter().zip(widths(&lengths)) {
        out.raw("<rect class=\"").raw(part.kind.class()).raw("\" y=\"0\" height=\"60\" x=\"");
        out.number(x, 2).raw("\" width=\"").number((width - 1.5).max(1.0), 2).raw("\"><title>");
        out.text(&part.name).raw(", ").text(&format_size(part.len)).raw("</title></rect>");
        x += width;
    }
    out.raw("</svg>\n<figcaption><table class=\"parts\"><thead><tr><th scope=\"col\">What</th>");
    out.raw("<th scope=\"col\" class=\"n\">Starts at</th><th scope=\"col\" class=\"n\">Length</th><th scope=\"col\">From</th></tr></thead><tbody>\n");
    for part in parts {
        let percent = if len > 0 { 100.0 * part.len as f64 / len as f64 } else { 0.0 };
        out.raw("<tr><th scope=\"row\"><span class=\"key ")
            .raw(part.kind.class())
            .raw("\"></span>");
        out.text(&part.name).raw("</th><td class=\"n\">").text(&format_size(part.start));
        out.raw("</td><td class=\"n\">").text(&format_size(part.len)).raw(" (").number(percent, 1);
        out.raw(" %)</td><td>").text(&part.origin).raw("</td></tr>\n");
    }
    out.raw("</tbody></table></figcaption>\n</figure>\n");
}

pub(super) fn timeline(out: &mut Html, marks: &[(&'static str, f64)]) {
    let Some(end) = marks.iter().map(|(_, at)| *at).reduce(f64::max).filter(|end| *end > 0.0)
    else {
        return;
    };
    out.raw("<h3>Timeline</h3>\n<figure>\n<svg class=\"time\" viewBox=\"0 0 1000 24\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    let mut from = 0.0;
    for (n, (_, at)) in marks.iter().enumerate() {
        let (x, width) = (WIDTH * from / end, WIDTH * (at - from).max(0.0) / end);
        out.raw("<rect class=\"t").number((n % 4) as f64, 0).raw("\" y=\"0\" height=\"24\" x=\"");
        out.number(x, 2).raw("\" width=\"").number(width, 2).raw("\"/>");
        from = *at;
    }
    out.raw("</svg>\n<figcaption><ol class=\"marks\">\n");
    for (n, (label, at)) in marks.iter().enumerate() {
        out.raw("<li><span class=\"key t").number((n % 4) as f64, 0).raw("\"></span>").text(label);
        out.raw(" after ").number(*at, 1).raw(" s</li>\n");
    }
    out.raw("</ol></figcaption>\n</figure>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_fill_the_drawing() {
        for lengths in [
            vec![1],
            vec![1, 1_000_000_000],
            vec![64 << 20, 128 << 20, 2 << 30],
            vec![0, 0],
            vec![1; 5000],
        ] {
            let all = widths(&lengths);
            assert!(
                (all.iter().sum::<f64>() - WIDTH).abs() < 1.0 || lengths == [0, 0],
                "{lengths:?}"
            );
            assert!(all.iter().all(|w| *w > 0.0));
        }
    }
}
