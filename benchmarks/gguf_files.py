"""What several writers of GGUF files need."""

from __future__ import annotations

import gguf


def copy_field(field: gguf.ReaderField, writer: gguf.GGUFWriter, value: object = None) -> None:
    """Give a file a field of another one, with another value if there is one."""
    kind = field.types[0]
    sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents() if value is None else value, kind, sub_type)


def finish(writer: gguf.GGUFWriter) -> None:
    """Write all that was added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
