"""`modeflow schema`."""

from __future__ import annotations

import argparse
import sys

from modeflow.cli.commands._output import check_output, columns_of, say, say_notes, say_wrote


def run(args: argparse.Namespace) -> int:
    """Print what each column of a table is taken for, as YAML that a person can edit."""
    from pathlib import Path

    from modeflow.data.columns import TableSchema, read_mixed
    from modeflow.data.json_text import json_text
    from modeflow.data.mixed_sets import dropped_columns, dropped_note
    from modeflow.data.table import atomic_write

    check_output(args)
    frame, notes = read_mixed(args.data, columns_of(args.columns), header=args.header, array=args.array)
    names = () if args.columns else dropped_columns(args.data, frame.columns)
    schema = TableSchema.infer(frame, dict.fromkeys(names, "drop"), args.data)
    notes += [dropped_note(args.data, names)] if names else []
    say_notes(args, [*notes, *schema.notes])
    title = f"Schema of {args.data}: {frame.height} rows, {frame.width} columns"
    text = schema.to_yaml(title)
    if args.out and args.out != "-":
        atomic_write(args.out, lambda file: Path(file).write_text(text, encoding="utf-8"))
        say_wrote(args, f"{len(schema.columns)} columns, {schema.dim} to be modelled")
    if args.json:
        content = {
            "data": args.data,
            "rows": frame.height,
            **schema.to_dict(),
            "notes": [*notes, *schema.notes],
        }
        print(json_text({**content, **({"out": args.out} if args.out else {})}, default=str))
    elif not args.out or args.out == "-":
        sys.stdout.write(text)
        refused = [column.name for column in schema.columns if column.kind == "id"]
        if refused:
            say(args, "modeflow: edit columns of kind id before a fit: 'drop', or what else they are")
    return 0
