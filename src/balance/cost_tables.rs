//! The bills of a month as a table and as JSON. In JSON, amounts are strings, because some JSON parsers round numbers.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::cost::bill::{Bill, Projected};
use super::cost::money::Money;
use super::cost::month::{DAY_SECONDS, time_text};
use super::cost::samples::Samples;
use super::cost::tariff::{Charges, Tariff, bytes_text, decimals};
use super::tables::aligned;

const UNKNOWN: &str = "unknown";

/// Returns the heading, a row for each bill, and, if there are several bills, a row with their sum.
pub(crate) fn cost_rows(bills: &[Bill]) -> Vec<Vec<String>> {
    let heading =
        ["provider", "meter", "traffic so far", "bill so far", "traffic forecast", "bill forecast", "bill range"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(bills.iter().map(row));
    if bills.len() > 1 {
        let sum = |amount: &dyn Fn(&Bill) -> Option<Money>| text(sum(bills, amount));
        let low = sum_of(bills, |range| range.0).zip(sum_of(bills, |range| range.1));
        let range = low.map_or_else(|| UNKNOWN.to_owned(), |range| range_text(Some(range)));
        let blank = String::new;
        rows.push(vec!["all".to_owned(), blank(), blank(), sum(&so_far), blank(), sum(&forecast), range]);
    }
    rows
}

/// Returns the table of the bills as text, followed by the notes and the number of samples of other months.
pub(crate) fn cost_table(bills: &[Bill], samples: &Samples) -> String {
    let month = samples.month;
    let mut out = format!("{month} (UTC), amounts in the currency of balance.toml\n{}", aligned(&cost_rows(bills)));
    let notes: Vec<&String> = bills.iter().flat_map(|bill| &bill.notes).collect();
    if !notes.is_empty() || samples.elsewhere > 0 {
        out.push('\n');
    }
    for note in notes {
        let _ = writeln!(out, "{note}");
    }
    if samples.elsewhere > 0 {
        let left = samples.elsewhere;
        let _ = writeln!(out, "samples of other months, which are left out: {left}; --month shows them");
    }
    out
}

fn so_far(bill: &Bill) -> Option<Money> {
    bill.so_far.map(Charges::total)
}

fn forecast(bill: &Bill) -> Option<Money> {
    bill.forecast.map(|forecast| forecast.charges.total())
}

/// Returns a sum, or `None` if an amount is unknown.
fn sum(bills: &[Bill], amount: &dyn Fn(&Bill) -> Option<Money>) -> Option<Money> {
    bills.iter().map(amount).sum()
}

fn sum_of(bills: &[Bill], end: fn((Money, Money)) -> Money) -> Option<Money> {
    sum(bills, &|bill| bill.forecast.and_then(|forecast| forecast.range).map(end))
}

fn text(amount: Option<Money>) -> String {
    amount.map_or_else(|| UNKNOWN.to_owned(), |amount| amount.to_string())
}

fn range_text(range: Option<(Money, Money)>) -> String {
    match range {
        Some((low, high)) if low == high => low.to_string(),
        Some((low, high)) => format!("{low} to {high}"),
        None => UNKNOWN.to_owned(),
    }
}

fn row(bill: &Bill) -> Vec<String> {
    let unknown = || UNKNOWN.to_owned();
    let tariff = bill.tariff.as_ref();
    let quantity = match (tariff, &bill.outlook, bill.so_far) {
        (Some(tariff), Some(outlook), Some(_)) => tariff.quantity_text(tariff.quantity(&outlook.so_far())),
        (_, Some(outlook), _) => bytes_text(outlook.so_far().volume.bytes),
        (_, None, _) => unknown(),
    };
    let expected =
        tariff.zip(bill.forecast).map(|(tariff, forecast)| tariff.quantity_text(tariff.quantity(&forecast.usage)));
    vec![
        bill.provider.clone(),
        tariff.map_or("no price", Tariff::meter_name).to_owned(),
        quantity,
        text(so_far(bill)),
        expected.unwrap_or_else(unknown),
        text(forecast(bill)),
        range_text(bill.forecast.and_then(|forecast| forecast.range)),
    ]
}

/// Returns `{month, providers: {provider: {…}}, so_far, forecast, low, high, notes, samples_of_other_months}`. Unknown
/// values are null.
pub(crate) fn cost_json(bills: &[Bill], samples: &Samples) -> Value {
    let providers: Map<_, _> = bills.iter().map(|bill| (bill.provider.clone(), one(bill))).collect();
    json!({
        "month": samples.month.to_string(),
        "providers": providers,
        "so_far": exact(sum(bills, &so_far)),
        "forecast": exact(sum(bills, &forecast)),
        "low": exact(sum_of(bills, |range| range.0)),
        "high": exact(sum_of(bills, |range| range.1)),
        "notes": bills.iter().flat_map(|bill| &bill.notes).collect::<Vec<_>>(),
        "samples_of_other_months": samples.elsewhere,
    })
}

fn exact(amount: Option<Money>) -> Value {
    amount.map(Money::exact).into()
}

fn one(bill: &Bill) -> Value {
    let number = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    let traffic = bill.outlook.as_ref().map(|outlook| {
        let usage = outlook.so_far();
        json!({
            "from": time_text(outlook.from),
            "to": time_text(outlook.to),
            "days_with_samples": decimals(outlook.covered.into(), DAY_SECONDS.into()),
            "days_without_samples": decimals(outlook.missing().into(), DAY_SECONDS.into()),
            "bytes": number(usage.volume.bytes),
            "requests": number(usage.volume.requests),
        })
    });
    let quantity = bill.tariff.as_ref().zip(bill.outlook.as_ref()).filter(|_| bill.so_far.is_some());
    let expected = bill.tariff.as_ref().zip(bill.forecast);
    json!({
        "meter": bill.tariff.as_ref().map(Tariff::meter_name),
        "traffic": traffic,
        "quantity": quantity.map(|(tariff, outlook)| tariff.quantity_text(tariff.quantity(&outlook.so_far()))),
        "forecast_quantity": expected.map(|(tariff, forecast)| tariff.quantity_text(tariff.quantity(&forecast.usage))),
        "commit": bill.tariff.as_ref().and_then(|tariff| Some(tariff.quantity_text(tariff.commit?))),
        "so_far": bill.so_far.map(charges),
        "forecast": bill.forecast.map(|forecast| charges(forecast.charges)),
        "low": range(bill.forecast, |range| range.0),
        "high": range(bill.forecast, |range| range.1),
        "notes": bill.notes,
    })
}

fn range(forecast: Option<Projected>, end: fn((Money, Money)) -> Money) -> Value {
    exact(forecast.and_then(|forecast| forecast.range).map(end))
}

fn charges(charges: Charges) -> Value {
    json!({
        "traffic": charges.traffic.exact(),
        "overage": charges.overage.exact(),
        "requests": charges.requests.exact(),
        "pulls": charges.pulls.exact(),
        "total": charges.total().exact(),
    })
}
