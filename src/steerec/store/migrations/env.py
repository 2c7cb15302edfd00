"""Run by Alembic: applies the versions on the connection that `migrate` hands over."""

from alembic import context

from steerec.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite can, though Alembic assumes not
)
with context.begin_transaction():
    context.run_migrations()
