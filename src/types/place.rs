//! Coordinates with their datum.

use super::reason::FieldReason;
use super::violation::Violations;

/// The reference system of a latitude and longitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Datum {
    /// China Geodetic Coordinate System 2000, EPSG:4490.
    Cgcs2000,
    /// World Geodetic System 1984, EPSG:4326. Equal to CGCS2000 for data coarser than 10 m.
    Wgs84,
    /// The shifted system of Chinese web maps, 50 to 500 m off the others.
    Gcj02,
}

impl Datum {
    /// The name, as lists in CSV write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cgcs2000 => "CGCS2000",
            Self::Wgs84 => "WGS84",
            Self::Gcj02 => "GCJ02",
        }
    }

    /// Where the datum may be used. The two Chinese ones are taken within the box in which the
    /// GCJ-02 shift is defined, which holds China with its seas.
    #[must_use]
    pub const fn extent(self) -> Extent {
        match self {
            Self::Wgs84 => Extent {
                south: -90.0,
                west: -180.0,
                north: 90.0,
                east: 180.0,
            },
            Self::Cgcs2000 | Self::Gcj02 => Extent {
                south: 0.8293,
                west: 72.004,
                north: 55.8271,
                east: 137.8347,
            },
        }
    }
}

/// A box in degrees; its edges belong to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// The least latitude.
    pub south: f64,
    /// The least longitude.
    pub west: f64,
    /// The greatest latitude.
    pub north: f64,
    /// The greatest longitude.
    pub east: f64,
}

impl Extent {
    /// Roughly Nantong, from memory: good for a hint that a place looks wrong, never for a refusal.
    pub const NANTONG: Self = Self {
        south: 31.7,
        west: 120.2,
        north: 32.7,
        east: 121.9,
    };

    /// True when the point lies within.
    #[must_use]
    pub fn contains(&self, point: &Coordinates) -> bool {
        (self.south..=self.north).contains(&point.latitude)
            && (self.west..=self.east).contains(&point.longitude)
    }
}

/// A point on the earth: finite, and within the extent of its datum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinates {
    latitude: f64,
    longitude: f64,
    datum: Datum,
}

impl Coordinates {
    /// Checks optional coordinates, the fields `latitude`, `longitude` and `datum` of the scope.
    /// Without either number there are none; with one, all three are required.
    pub fn check(
        v: &mut Violations,
        latitude: Option<f64>,
        longitude: Option<f64>,
        datum: Option<Datum>,
    ) -> Option<Self> {
        if latitude.is_none() && longitude.is_none() {
            return None;
        }
        for (field, missing) in [
            ("latitude", latitude.is_none()),
            ("longitude", longitude.is_none()),
            ("datum", datum.is_none()),
        ] {
            if missing {
                v.field(
                    field,
                    FieldReason::Required,
                    "is required: give latitude, longitude and datum together, or none of them",
                    "必填：纬度、经度和坐标系须同时填写，或都不填",
                );
            }
        }
        let extent = datum.unwrap_or(Datum::Wgs84).extent();
        let north = within(v, "latitude", latitude, extent.south, extent.north);
        let east = within(v, "longitude", longitude, extent.west, extent.east);
        Some(Self {
            latitude: north?,
            longitude: east?,
            datum: datum?,
        })
    }

    /// Degrees north.
    #[must_use]
    pub fn latitude(&self) -> f64 {
        self.latitude
    }

    /// Degrees east.
    #[must_use]
    pub fn longitude(&self) -> f64 {
        self.longitude
    }

    /// The reference system.
    #[must_use]
    pub fn datum(&self) -> Datum {
        self.datum
    }
}

/// The value, if it lies within; NaN never does.
fn within(v: &mut Violations, field: &str, value: Option<f64>, min: f64, max: f64) -> Option<f64> {
    let value = value?;
    if (min..=max).contains(&value) {
        return Some(value);
    }
    v.field(
        field,
        FieldReason::OutOfRange,
        format!(
            "is {value:?}: the datum covers {min} to {max} degrees; check the datum, and that \
             latitude and longitude are not exchanged"
        ),
        format!("为 {value:?}：该坐标系范围为 {min} 至 {max} 度；请核对坐标系，以及经纬度是否填反"),
    );
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(
        latitude: Option<f64>,
        longitude: Option<f64>,
        datum: Option<Datum>,
    ) -> (Option<Coordinates>, Vec<(String, FieldReason)>) {
        let mut v = Violations::new();
        let point = Coordinates::check(&mut v.scope("place"), latitude, longitude, datum);
        (point, v.into_iter().map(|v| (v.field, v.reason)).collect())
    }

    #[test]
    fn a_point_has_all_three_or_none() {
        assert_eq!(check(None, None, None), (None, vec![]));
        assert_eq!(check(None, None, Some(Datum::Wgs84)), (None, vec![]));
        let required = |field: &str| (field.to_owned(), FieldReason::Required);
        assert_eq!(
            check(Some(31.8), None, Some(Datum::Gcj02)).1,
            [required("place.longitude")]
        );
        assert_eq!(
            check(Some(31.8), Some(121.6), None).1,
            [required("place.datum")]
        );
    }

    #[test]
    fn a_point_outside_its_datum_is_refused() {
        let out = |field: &str| (field.to_owned(), FieldReason::OutOfRange);
        let (lat, lon) = (|| out("place.latitude"), || out("place.longitude"));
        assert_eq!(
            check(Some(90.5), Some(180.5), Some(Datum::Wgs84)).1,
            [lat(), lon()]
        );
        assert_eq!(
            check(Some(121.6), Some(31.8), Some(Datum::Cgcs2000)).1,
            [lat(), lon()]
        );
        assert_eq!(
            check(Some(f64::NAN), Some(121.6), Some(Datum::Wgs84)).1,
            [lat()]
        );
        assert_eq!(
            check(Some(-33.9), Some(121.6), Some(Datum::Gcj02)).1,
            [lat()]
        );
        assert!(
            check(Some(-33.9), Some(18.4), Some(Datum::Wgs84))
                .0
                .is_some()
        );
    }

    #[test]
    fn nantong_is_where_it_is() {
        let point = |lat, lon| {
            check(Some(lat), Some(lon), Some(Datum::Cgcs2000))
                .0
                .expect("a point")
        };
        assert!(Extent::NANTONG.contains(&point(31.81, 121.66)));
        assert!(!Extent::NANTONG.contains(&point(31.23, 121.47)));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_in_range(lat in any::<f64>(), lon in any::<f64>()) {
            for datum in [Datum::Cgcs2000, Datum::Wgs84, Datum::Gcj02] {
                let (point, violations) = check(Some(lat), Some(lon), Some(datum));
                prop_assert_eq!(point.is_none(), !violations.is_empty());
                prop_assert!(point.is_none_or(|p| datum.extent().contains(&p)));
            }
        }
    }
}
