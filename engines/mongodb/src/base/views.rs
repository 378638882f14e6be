//! Views as rows of `system.views`, made from what the catalogue says of them: for logs that do not show those rows, and for accounts
//! that may not read them.

use bson::raw::RawDocument;

use crate::fold::raw::{Builder, Document};

/// What servers keep views in.
pub(crate) const NAME: &str = "system.views";
/// What the name of a time series' buckets begins with.
const BUCKETS: &str = "system.buckets.";

/// The row of the view `db.name`, of which `listCollections` says `info`. Of a time series it has no pipeline: servers make that by
/// themselves.
pub(crate) fn row(db: &str, name: &str, info: &RawDocument) -> Vec<u8> {
    let mut row = Builder::new();
    row.text("_id", &format!("{db}.{name}"));
    if info.get_str("type").ok() == Some("timeseries") {
        row.text("viewOn", &format!("{BUCKETS}{name}"));
        return row.finish();
    }
    let options = info.get_document("options").ok();
    let options = options.and_then(|options| Document::new(options.as_bytes()).ok());
    for element in options.into_iter().flat_map(Document::elements).flatten() {
        row.element(element);
    }
    row.finish()
}

#[cfg(test)]
mod tests {
    use bson::{Document as Plain, rawdoc};

    use super::*;

    #[test]
    fn a_view_is_a_row_as_servers_keep_it() {
        let options = rawdoc! { "viewOn": "b", "pipeline": [{ "$match": { "x": 1 } }] };
        let info = rawdoc! { "name": "v", "type": "view", "options": options, "info": { "readOnly": true } };
        let row = |info: &RawDocument| Plain::from_reader(row("a", "v", info).as_slice()).unwrap();
        let expected =
            rawdoc! { "_id": "a.v", "viewOn": "b", "pipeline": [{ "$match": { "x": 1 } }] };
        assert_eq!(row(&info), Plain::try_from(expected).unwrap());
        let series = rawdoc! { "name": "v", "type": "timeseries", "options": { "timeseries": { "timeField": "t" } } };
        let expected = rawdoc! { "_id": "a.v", "viewOn": "system.buckets.v" };
        assert_eq!(row(&series), Plain::try_from(expected).unwrap());
    }
}
