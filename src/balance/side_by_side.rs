//! Runs several futures at the same time, so that a DNS service or a shim that hangs does not delay the others. These
//! futures may borrow; spawned tasks may not.

use std::pin::Pin;
use std::task::Poll;

/// Waits for all futures. Returns the results in the order of the futures.
pub(crate) async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in waiting.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::channel;

    use super::*;

    #[tokio::test]
    async fn futures_when_the_first_ends_last_then_results_are_in_order() {
        let ((one, first), (two, second)) = (channel(), channel());
        let first = async move {
            let value: u8 = first.await.expect("a value");
            let _ = two.send(7_u8);
            value
        };
        let second = async move { second.await.expect("a value") };
        let futures: Vec<Pin<Box<dyn Future<Output = u8>>>> =
            vec![Box::pin(second), Box::pin(first), Box::pin(async move { one.send(5_u8).map_or(0, |()| 1) })];
        assert_eq!(all(futures).await, [7, 5, 1]);
        assert_eq!(all(Vec::<std::future::Ready<u8>>::new()).await, [0_u8; 0]);
    }
}
