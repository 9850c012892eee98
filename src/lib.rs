#![doc = include_str!("ARCHITECTURE.md")]

pub mod cli;

pub mod serve;

pub mod admin;

pub mod runtime;

pub mod config;

pub mod edge;

pub mod origin;

pub mod intake;

pub mod cdn;

pub mod pages;

pub mod metrics;

pub mod fault;

pub mod ids;

pub mod wire;

pub mod clock;
