// SPDX-License-Identifier: Apache-2.0
//! Replays the vectors of `tests/vectors/argo/` on the mediator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod vector;

use std::collections::BTreeSet;

use vector::{Step, Want};

#[test]
fn every_vector() {
    let mut failed = vec![];
    for (file, vector) in vector::all() {
        let result = std::panic::catch_unwind(|| vector::replay::replay(&vector));
        if result.is_err() {
            failed.push(format!("{file}: {}", vector.name));
        }
    }
    assert!(failed.is_empty(), "these failed: {failed:#?}");
}

#[test]
fn names_are_unique_and_differences_have_a_reason() {
    let vectors = vector::all();
    let names: BTreeSet<_> = vectors.iter().map(|(_, vector)| &vector.name).collect();
    assert_eq!(names.len(), vectors.len());
    for (_, vector) in &vectors {
        let differs = |step: &Step| {
            let entries = step.entries.iter().chain(&step.entries_of);
            let absent = matches!(&step.xen, Some(Want::Word(word)) if word == "absent");
            (step.xen.is_some() && !absent)
                || step.events_xen.is_some()
                || entries.clone().any(|entry| entry._max_xen.is_some())
        };
        if vector.steps.iter().any(differs) {
            assert!(vector.difference.is_some(), "{} differs, why?", vector.name);
        }
    }
}

/// The rows that can be shown without a guest, and every error there is.
#[test]
fn the_vectors_cover_what_they_should() {
    let vectors = vector::all();
    let rows: BTreeSet<u8> = vectors
        .iter()
        .flat_map(|(_, vector)| vector.rows.clone())
        .collect();
    for row in [2, 3, 4, 5, 6, 7, 8, 10, 15, 24] {
        assert!(rows.contains(&row), "row {row}");
    }
    let steps = vectors.iter().flat_map(|(_, vector)| &vector.steps);
    let words: BTreeSet<_> = steps
        .filter_map(|step| match &step.want {
            Some(Want::Word(word)) => Some(word.as_str()),
            _ => None,
        })
        .collect();
    let all = "EPERM ENOENT ESRCH EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST ENODEV EINVAL ENOSPC \
               ENOSYS EMSGSIZE EOPNOTSUPP EADDRINUSE ECONNREFUSED";
    for word in all.split_whitespace() {
        assert!(words.contains(word), "{word}");
    }
}
