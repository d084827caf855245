"""The services of the rehearsal cloud that moto only records, one module each."""
