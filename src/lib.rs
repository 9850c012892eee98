#![doc = include_str!("ARCHITECTURE.md")]

pub mod cli;

pub mod admin;
pub mod serve;

pub mod runtime;

pub mod config;

pub mod edge;

pub mod intake;
pub mod origin;

pub mod cdn;
pub mod pages;

pub mod metrics;

pub mod clock;
pub mod fault;
pub mod ids;
pub mod wire;
