"""What server and client must agree on: values as protobuf messages, errors as gRPC statuses.

Knows nothing of galleries, networks or sockets. Imports nothing here: who only reads an address need not
load gRPC.
"""
