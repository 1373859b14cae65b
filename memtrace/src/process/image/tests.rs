//! Images of our own, and files that were made to be none.

use super::*;
use std::io::Write;

fn own_image_of(address: u64) -> Image {
    let pid = std::process::id();
    let mappings = maps::read(pid).unwrap();
    let mapping = mappings.iter().find(|m| m.start <= address && address < m.end).unwrap();
    Image::open(pid, mapping).unwrap()
}

#[test]
fn a_function_is_found_where_the_process_runs_it() {
    let address = libc::malloc as *const () as u64;
    let image = own_image_of(address);
    let places = &image.functions(&["malloc"]).unwrap()["malloc"];
    assert_eq!(places.len(), 1);
    assert!(places[0].size > 0);
    assert_eq!(image.read(places[0].file_offset, 8).unwrap().len(), 8);
    assert!(image.build_id.as_ref().unwrap().len() >= 16);
}

#[test]
fn a_choice_between_functions_is_no_function() {
    let image = own_image_of(libc::malloc as *const () as u64);
    assert!(image.functions(&["strlen"]).unwrap().is_empty());
}

#[test]
fn functions_that_are_called_through_the_table_of_addresses_are_told() {
    let image = own_image_of(libc::malloc as *const () as u64);
    let linked = image.linked_functions().unwrap();
    let malloc = image.functions(&["malloc"]).unwrap()["malloc"][0];
    let entry = linked.values().find(|function| function.name == "malloc").unwrap();
    assert_eq!(entry.own, image.virtual_offset(malloc.file_offset));
    assert!(linked.values().any(|function| function.own.is_none()));
}

#[test]
fn file_and_virtual_offsets_convert_both_ways() {
    let image = own_image_of(libc::malloc as *const () as u64);
    let place = image.functions(&["malloc"]).unwrap()["malloc"][0];
    let virtual_offset = image.virtual_offset(place.file_offset).unwrap();
    assert_eq!(image.file_offset(virtual_offset), Some(place.file_offset));
    assert_eq!(image.virtual_offset(u64::MAX), None);
}

#[test]
fn code_that_begins_within_a_page_is_mapped_with_the_end_of_what_is_before_it() {
    let mut image = own_image_of(libc::malloc as *const () as u64);
    let segment =
        |file_offset, virtual_offset, executable| Segment { file_offset, size: 0x2000, virtual_offset, executable };
    image.segments = vec![segment(0, 0, false), segment(0x2a80, 0x3a80, true)];
    assert_eq!(image.virtual_offset_of_code(0x2000), Some(0x3000));
    assert_eq!(image.virtual_offset_of_code(0x3000), Some(0x4000));
}

#[test]
fn the_vdso_is_an_image_with_call_frame_information() {
    let vdso = Image::vdso().unwrap();
    assert!(vdso.functions(&["__vdso_gettimeofday"]).unwrap().len() == 1);
    assert!(vdso.frame_section().unwrap().is_some());
}

/// An ELF file whose table of symbols defines `malloc` at `count` places, and which has `segments` parts.
fn image_of_many(count: u64, segments: u16) -> Image {
    const CODE: u64 = 1 << 20;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let longs = |longs: &[u64]| longs.iter().flat_map(|long| long.to_le_bytes()).collect::<Vec<u8>>();
    let part = [words(&[1, 5]), longs(&[0, 0, 0, CODE, CODE, 4096])].concat();
    let (parts_end, names) = (64 + 56 * u64::from(segments), b"\0malloc\0");
    let symbols = (0..count).flat_map(|index| [words(&[1, 0x1_0012]), longs(&[16 * index, 16])].concat());
    let symbols: Vec<u8> = [0; 24].into_iter().chain(symbols).collect();
    let sections_at = parts_end + names.len() as u64 + symbols.len() as u64;
    let section = |kind, at, size, link, entry| {
        [words(&[0, kind]), longs(&[0, 0, at, size]), words(&[link, 1]), longs(&[1, entry])].concat()
    };
    let head = [words(&[0x464c_457f, 0x0001_0102, 0, 0, 0x003e_0003, 1]), longs(&[0, 64, sections_at])].concat();
    let sizes = [0, 0, 64, 56, segments, 64, 3, 1].map(u16::to_le_bytes).concat();
    let mut file = tempfile::tempfile().unwrap();
    let pieces = [head, sizes, part.repeat(segments.into()), names.to_vec(), symbols.clone(), vec![0; 64]];
    file.write_all(&pieces.concat()).unwrap();
    file.write_all(&section(3, parts_end, names.len() as u64, 0, 0)).unwrap();
    file.write_all(&section(2, parts_end + names.len() as u64, symbols.len() as u64, 1, 24)).unwrap();
    Image::parse(file, "many".into()).unwrap()
}

#[test]
fn an_image_has_a_bounded_number_of_parts_and_of_functions_of_a_name() {
    let image = image_of_many(1000, 1000);
    assert_eq!(image.segments.len(), MAX_SEGMENTS);
    assert_eq!(image.functions(&["malloc"]).unwrap()["malloc"].len(), MAX_PLACES);
    assert_eq!(image_of_many(3, 1).functions(&["malloc"]).unwrap()["malloc"].len(), 3);
}

#[test]
fn hostile_files_are_refused_without_panic() {
    let mut header = vec![0u8; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    for content in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &header, &[0xff; 4096]] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        _ = Image::parse(file, "hostile".into());
    }
}
